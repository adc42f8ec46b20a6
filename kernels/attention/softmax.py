"""One block of attention with its log-sum-exp: what every plain attention op here is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.precision import wide


def partial_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    visible: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of `q[..., M, D]` over `k[..., S, D]` and `v[..., S, Dv]`.

    Returns o `[..., M, Dv]` and lse `[..., M]`, both in float32, or float64 for float64 inputs. lse
    is the natural logarithm of the sum over the keys for which `visible` (broadcast to
    `[..., M, S]`) is true. A row that sees no key has o = 0 and lse = -inf, which `merge` takes as
    a partial without weight. bias: added to the logits after the soft cap, broadcast likewise.
    """
    if k.shape[-2] == 0:
        shape = torch.broadcast_shapes(q.shape[:-2], v.shape[:-2])
        return (
            wide(q).new_zeros(*shape, q.shape[-2], v.shape[-1]),
            wide(q).new_full((*shape, q.shape[-2]), -torch.inf),
        )
    if softcap is None and visible is None and bias is None and _has_flash(q, v):
        o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
        return wide(o), lse
    scores = torch.matmul(wide(q) * scale, wide(k).mT)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    lse = scores.logsumexp(-1)
    floor = torch.finfo(lse.dtype).min  # an empty row: exp(-inf - floor) = 0, not NaN
    weights = torch.exp(scores - lse.clamp_min(floor).unsqueeze(-1))
    return torch.matmul(weights, wide(v)), lse


def causal_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    blocks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal attention of a chunk over itself: `q[B, H, n, D]` over `k, v[B, Hkv, n, D]`.

    Returns o `[B, H, n, Dv]` and lse `[B, H, n]` as `partial_softmax` does. Key j is visible to
    query i if j <= i or both are of one block (`blocks[n]`, -1 for none), and i - window < j.
    """
    n = q.shape[-2]
    if blocks is None and softcap is None and (window is None or window >= n) and _has_flash(q, v):
        o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, is_causal=True, scale=scale
        )
        return wide(o), lse
    place = torch.arange(n, device=q.device)
    ahead = place[:, None] - place[None, :]
    visible = ahead >= 0
    if blocks is not None:
        visible = visible | ((blocks[:, None] == blocks) & (blocks >= 0))
    if window is not None:
        visible = visible & (ahead < window)
    batch, heads, group = q.shape[0], k.shape[1], q.shape[1] // k.shape[1]
    o, lse = partial_softmax(
        q.view(batch, heads, group, n, -1),
        k.unsqueeze(2),
        v.unsqueeze(2),
        scale=scale,
        softcap=softcap,
        visible=visible,
    )
    return o.view(batch, heads * group, n, -1), lse.view(batch, heads * group, n)


def _has_flash(q: Tensor, v: Tensor) -> bool:
    """PyTorch's CPU flash kernel: one pass over the keys, with lse, for one head size."""
    return q.device.type == "cpu" and q.dim() == 4 and q.shape[-1] == v.shape[-1]
