"""Attention as one softmax in float64, and how far from it an op may be."""

from __future__ import annotations

import torch


def dense(q, k, v, visible, scale, softcap=None, bias=None):
    """q `[B, H, N, D]`, k and v `[B, Hkv, S, D]`, visible `[B, N, S]` or `[B, H, N, S]`, bias
    `[B, Hkv, S]`."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = q.double() @ k.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.double().repeat_interleave(group, dim=1)[:, :, None]
    scores = scores.masked_fill(~_by_head(visible), -torch.inf)
    lse = scores.logsumexp(-1)
    weights = torch.where(lse.isinf()[..., None], 0.0, (scores - lse[..., None]).exp())
    return weights.nan_to_num(0.0) @ v, lse


def own_error(q, k, v, visible, scale, softcap, bias=None):
    """The error of plain PyTorch in this dtype: twice that, plus rounding, is what we allow."""
    exact, _ = dense(q, k, v, visible, scale, softcap, bias)
    visible = _by_head(visible)
    group = q.shape[1] // k.shape[1]
    if bias is not None:
        bias = bias.repeat_interleave(group, dim=1)[:, :, None]
        visible = visible & bias.isfinite()
    wide_k, wide_v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = (q * scale) @ wide_k.mT
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.nan_to_num(neginf=0).to(scores)
    scores = scores.masked_fill(~visible, torch.finfo(q.dtype).min)
    naive = scores.softmax(-1) @ wide_v
    empty = ~visible.any(-1, keepdim=True)
    return (naive.double().masked_fill(empty, 0.0) - exact).abs().max().item()


def close(ours, exact, error, dtype):
    assert (ours.double() - exact).abs().max().item() <= 2 * error + 4 * torch.finfo(dtype).eps


def _by_head(visible):
    return visible if visible.dim() == 4 else visible[:, None]
