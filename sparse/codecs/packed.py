"""PackedGroups: keys and values in few bits, read by a kernel as they are packed (KIVI)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Partial
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.kernels.cache.quantize_kv import QuantizedKV, dequantize, quantize_kv
from specdec.sparse.codecs.base import Place
from specdec.sparse.codecs.codec import Coded


@dataclass(frozen=True)
class PackedGroups:
    """Keys are scaled by channel over a block of tokens, values by token over at most as many
    channels (KIVI, arXiv 2402.02750; see `kernels.cache.quantize_kv`). Of one layer at a time."""

    bits: int
    block: int
    keeps_values = True

    def learn(self, k: Tensor, v: Tensor, at: Place) -> tuple[()]:
        return ()

    def encode(self, k: Tensor, v: Tensor, at: Place, learned: tuple[()]) -> Coded:
        keys, values = (x.flatten(1, 2)[None] for x in (k, v))
        kv = QuantizedKV.empty(keys, values, self.bits, self.block)
        since = torch.zeros(1, dtype=torch.int32)
        quantize_kv(keys, values, kv, since, since + keys.shape[2], groups=k.shape[1])
        tokens = (-1, self.block)
        return (
            (kv.k[0].unflatten(1, tokens), kv.k_scales[0]),
            (kv.v[0].unflatten(1, tokens), kv.v_scales[0].unflatten(1, tokens)),
        )

    def decode(self, coded: Coded, at: Place, learned: tuple[()]) -> tuple[Tensor, Tensor]:
        kv = _kv(coded)
        k, v = dequantize(kv, 0, kv.k.shape[2])
        return k.unflatten(1, (-1, self.block)), v.unflatten(1, (-1, self.block))

    def attend(
        self, coded: Coded, q: Tensor, end: int, scale: float, softcap: float | None
    ) -> Partial:
        """See `Codec`."""
        length = torch.tensor([end], dtype=torch.int32, device=q.device)
        rows = torch.zeros(len(q), dtype=torch.int32, device=q.device)
        return quantized_attention(q, _kv(coded), length, rows, scale=scale, softcap=softcap)


def _kv(coded: Coded) -> QuantizedKV:
    """Blocks as the one row of a level."""
    (k, k_scales), (v, v_scales) = coded
    return QuantizedKV(k.flatten(1, 2)[None], k_scales[None], v.flatten(1, 2)[None],
                       v_scales.flatten(1, 2)[None])  # fmt: skip
