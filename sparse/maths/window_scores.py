"""window_scores: the attention that some queries pay to a text, as probabilities."""

from __future__ import annotations

import torch
from torch import Tensor


def window_scores(
    q: Tensor, k: Tensor, scale: float, positions: Tensor, softcap: float | None = None
) -> Tensor:
    """Probabilities `[Hkv, G, w, S]` of queries `q[Hkv, G, w, D]` over keys `k[Hkv, S, D]`.

    positions: `int64[w]`, where the queries stand; a query sees the keys up to its own position, of
    which there must be one. This is a softmax over q.k times `scale`, in float32 at least.
    """
    return masked_logits(q, k, scale, positions, softcap).softmax(dim=-1)


def masked_logits(
    q: Tensor, k: Tensor, scale: float, positions: Tensor, softcap: float | None = None
) -> Tensor:
    """The logits `[Hkv, G, w, S]` of which those are the softmax; -inf where a key is not seen."""
    work = torch.promote_types(q.dtype, torch.float32)
    logits = torch.einsum("hgwd,hsd->hgws", q.to(work) * scale, k.to(work))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    keys = torch.arange(k.shape[1], device=k.device)
    hidden = keys > positions.to(k.device)[:, None]
    return logits.masked_fill_(hidden, -torch.inf)


def visible(positions: Tensor, tokens: int) -> Tensor:
    """How many of the queries at `positions` see each of the keys, `int64[tokens]`."""
    keys = torch.arange(tokens, device=positions.device)
    return (keys <= positions[:, None]).sum(dim=0)
