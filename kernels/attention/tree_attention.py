"""tree_attention: draft nodes over each other, the only corner of attention that needs a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.attention.softmax import partial_softmax
from specdec.kernels.dispatch import dispatched


@dispatched
def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    anc: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of nodes `q[B, H, N, D]` over staged nodes `k[B, Hkv, S, D]`, `v[B, Hkv, S, Dv]`.

    anc: `int64[B, N, ceil(S / 64)]`; query i sees node j if bit j of its row is set. With a sliding
    `window` it also needs q_positions `[B, N]` - k_positions `[B, S]` < window.
    Returns o `[B, H, N, Dv]` and the natural-log lse `[B, H, N]`, float32 (float64 for float64).
    """
    batch, heads, nodes, dim = q.shape
    kv_heads, staged = k.shape[1:3]
    visible = unpack(anc, staged)
    if window is not None:
        assert q_positions is not None and k_positions is not None
        visible &= q_positions[:, :, None] - k_positions[:, None, :] < window
    o, lse = partial_softmax(
        q.reshape(batch, kv_heads, heads // kv_heads, nodes, dim),
        k.unsqueeze(2),
        v.unsqueeze(2),
        scale=scale,
        softcap=softcap,
        visible=visible[:, None, None],
    )
    return o.view(batch, heads, nodes, -1), lse.view(batch, heads, nodes)


def unpack(anc: Tensor, staged: int) -> Tensor:
    """Bitmask words `int64[B, N, W]` as `bool[B, N, staged]`."""
    slots = torch.arange(staged, device=anc.device)
    return (anc[:, :, slots >> 6] >> (slots & 63) & 1).bool()


def windowed(anc: Tensor, window: int, q_positions: Tensor, k_positions: Tensor) -> Tensor:
    """An ancestor bitmask without the staged nodes that have slid out of sight.

    anc: `int64[B, N, W]`; q_positions: `[B, N]`; k_positions: `[B, S]`, of all nodes it speaks of.
    """
    staged = k_positions.shape[1]
    visible = unpack(anc, staged)
    visible &= q_positions[:, :, None] - k_positions[:, None, :] < window
    bits = visible.to(torch.int64) << (torch.arange(staged, device=anc.device) & 63)
    padded = torch.nn.functional.pad(bits, (0, -staged % 64))
    return padded.unflatten(-1, (-1, 64)).sum(-1)
