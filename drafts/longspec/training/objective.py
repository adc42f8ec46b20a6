"""Objective: what a block learns from a lesson, and how well it would draft."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.longspec.training.settings import Settings
from specdec.drafts.longspec.training.teacher import Lesson

SKIP = 4  # first tokens of a text, which nobody drafts after


@dataclass(frozen=True)
class Frozen:
    """What a block shares with its target: embedding, head rows `[V', hidden]`, rotary.

    ids: the target's token of each head row, `int64[V']`; row_of: the row of each token, or -1.
    """

    embedding: nn.Module
    head: Tensor
    ids: Tensor
    row_of: Tensor
    rotary: Rotary


def outputs(block: nn.Module, frozen: Frozen, batch: Lesson, lag: int) -> Tensor:
    """The block's hidden states `[N, T, hidden]`, with the target's KV `lag` tokens behind."""
    embedded = frozen.embedding(batch.tokens).detach().float()
    out: Tensor = block(embedded, batch.positions, batch.k, batch.v, frozen.rotary, lag)
    return out


def loss(block: nn.Module, frozen: Frozen, batch: Lesson, lag: int, settings: Settings) -> Tensor:
    """What the block's hidden states are from the target's, over texts of a lesson."""
    h = outputs(block, frozen, batch, lag)[:, SKIP:]
    return distance(
        h, frozen, batch.top_ids[:, SKIP:], batch.top_logp[:, SKIP:], batch.hidden[:, SKIP:],
        settings,
    )  # fmt: skip


def distance(
    h: Tensor, frozen: Frozen, top_ids: Tensor, top_logp: Tensor, hidden: Tensor, settings: Settings
) -> Tensor:
    """Cross-entropy of `h[..., hidden]` on the target's distribution, and the additions that the
    settings ask for; the target's as in a `Lesson`, of the same places."""
    logp = (h @ frozen.head.to(h.dtype).T).float().log_softmax(-1)
    rows = frozen.row_of[top_ids.long()]
    known = rows >= 0
    probs = top_logp.float().exp() * known
    taken = logp.gather(-1, rows.clamp_min(0))
    total = -settings.logits_weight * (probs * taken).sum(-1).mean()
    if settings.argmax_weight:
        total = total - settings.argmax_weight * (taken * known)[..., 0].mean()
    if settings.hidden_weight:
        total = total + settings.hidden_weight * F.smooth_l1_loss(h.float(), hidden.float())
    return total


@torch.no_grad()
def top_ranks(block: nn.Module, frozen: Frozen, batch: Lesson, lag: int, most: int = 4) -> Tensor:
    """Rank of the target's argmax among the block's `most` best, `int64[N, T]`; `most` if none."""
    return ranks_of(outputs(block, frozen, batch, lag), frozen, batch.top_ids, most)


def ranks_of(h: Tensor, frozen: Frozen, top_ids: Tensor, most: int = 4) -> Tensor:
    """As `top_ranks`, of hidden states `h[N, T, hidden]`."""
    best = frozen.ids[(h @ frozen.head.to(h.dtype).T).topk(most).indices]
    hits = best == top_ids[..., :1]
    return torch.where(hits.any(-1), hits.int().argmax(-1), most)


@torch.no_grad()
def evaluate(
    block: nn.Module,
    frozen: Frozen,
    lessons: list[Lesson],
    device: torch.device,
    depth: int = 4,
) -> dict[str, float]:
    """Top-1 to top-4 agreement with the target one token ahead, cross-entropy on its distribution
    there, and simulated acceptance length.

    The last is that of chains of `depth`, started after every token: draft d sees the target's KV
    d tokens back and is accepted while all before it agreed with the target.
    """
    ranks: list[Tensor] = []
    entropy, plain = 0.0, Settings()
    for lesson in lessons:
        some = max(1, 4096 // lesson.tokens.shape[1])
        for first in range(0, len(lesson.tokens), some):
            rows = list(range(first, min(first + some, len(lesson.tokens))))
            batch = lesson.texts(rows, device)
            entropy += float(loss(block, frozen, batch, 1, plain)) * len(rows)
            by_lag = [top_ranks(block, frozen, batch, lag) for lag in range(1, depth + 1)]
            # draft d after token i stands at token i + d
            shifted = [x[:, SKIP + d : x.shape[1] - depth + d] for d, x in enumerate(by_lag)]
            ranks.append(torch.stack(shifted, -1).flatten(0, 1).cpu())
    report = figures(torch.cat(ranks))
    report["held_out_loss"] = entropy / sum(len(lesson.tokens) for lesson in lessons)
    return report


def figures(ranks: Tensor) -> dict[str, float]:
    """Agreement and simulated acceptance length, of the ranks `[chains, depth]` of drafts."""
    report = {f"top{k}": float((ranks[:, 0] < k).double().mean()) for k in (1, 2, 3, 4)}
    report["acceptance_length"] = 1 + float((ranks == 0).cumprod(-1).sum(-1).double().mean())
    return report
