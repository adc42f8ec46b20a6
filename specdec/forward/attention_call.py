"""AttentionCall: what one layer hands to attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionCall:
    """One layer's queries, keys and values, after q/k norm and RoPE, with its model's settings.

    q: `[B, H, N, D]`; k, v: `[B, Hkv, N, D]`. `sinks[H]` are extra logits without a value
    (GPT-OSS); `window` is the number of positions a query sees, its own included.
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    softcap: float | None = None
    window: int | None = None
    sinks: Tensor | None = None
