"""Drafting: methods draft along the target's own text, and are asked how much of it they meet."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from specdec.bench.methods.kept import Kept
from specdec.bench.views.attention_mass import Walk
from specdec.bench.views.drafted import DraftedView
from specdec.errors import SpecdecError
from specdec.forward.full_view import FullView
from specdec.forward.view_reads import PassRead
from specdec.sampling.noise import Noise

Cell = dict[str, Any]


def own_text(walk: Walk, count: int, noise: Noise | None) -> list[int]:
    """How the target goes on behind the walk: greedily, or drawn at temperature 1 under `noise`."""
    full, found = DraftedView(FullView(), walk), list[int]()
    logits = full.begin()
    while len(found) < count:
        scores = logits[None].double()
        if noise is not None:
            scores = scores + gumbel(noise, len(walk.row.tokens) + len(found), 1, scores)
        found.append(int(scores.argmax()))
        logits = full.feed(found[-1:])[0]
    return found


def gumbel(noise: Noise, start: int, count: int, like: Tensor) -> Tensor:
    """The noise `float64[count, V]` of the tokens from position `start` on."""
    size = like.shape[-1]
    return torch.stack([noise.target(start + i, size, like.device) for i in range(count)])


@dataclass
class Drafts:
    """What became of one view's drafts along a walk.

    accepted: of each round, how many drafts of `depth` the target would have kept: a chain is as
    good as its first tokens. pace: time of a draft's first pass, which may select, in passes of the
    target that read everything, one of which opens each round.
    """

    drafted: DraftedView
    overlap: Tensor
    accepted: list[int] = field(default_factory=list)
    read: list[PassRead] = field(default_factory=list)
    first_chosen: int = 0  # bytes read to choose when the prompt had just been read
    pace: list[float] = field(default_factory=list)
    logits: Tensor | None = None
    error: str | None = None

    def draft(self, walk: Walk, plain_s: float) -> None:
        first = self.drafted.begin()
        rest = self.drafted.feed(walk.coming[: walk.depth - 1])
        self.logits = torch.cat([first[None], rest]).float()
        read = list(self.drafted.read)
        if not self.accepted and read:
            self.first_chosen = read[0].chosen_bytes
            read[0] = read[0]._replace(chosen_bytes=0)
        if self.accepted:
            self.pace.append(self.drafted.seconds / plain_s)
        self.read += read

    def compare(self, walk: Walk, probs: Tensor, noise: Tensor | float) -> None:
        """noise: float64[depth, V], or 0 where the text is greedy."""
        assert self.logits is not None
        mine = (self.logits.double() + noise).argmax(-1).tolist()
        same = [a == b for a, b in zip(mine, walk.coming, strict=False)]
        self.accepted.append((same + [False]).index(False))
        self.overlap += torch.minimum(self.logits.softmax(-1), probs).sum(-1).double()

    def to_dict(self, kept: int) -> Cell:
        if self.error is not None:
            return {"error": self.error}
        rounds, full = len(self.accepted), sum(x.full_bytes for x in self.read)
        return {
            "accepted": self.accepted,
            "overlap": [round(x, 4) for x in (self.overlap / rounds).tolist()],
            "read": round(sum(x.bytes for x in self.read) / full, 5) if full else 1.0,
            "chosen": round(sum(x.chosen_bytes for x in self.read) / full, 5) if full else 0.0,
            "first_chosen": round(self.first_chosen * len(self.read) / full, 4) if full else 0.0,
            "kept": round(kept * len(self.read) / full, 5) if full else 0.0,
            "bytes": round(full / len(self.read)) if full else 0,
            "pace": round(median(self.pace), 2) if self.pace else None,
        }


def drafts_along(
    walk: Walk,
    kept: Kept,
    views: Mapping[Hashable, DraftedView],
    noise: Noise | None,
    rounds: int,
    step: Callable[[], None] = lambda: None,
) -> dict[Hashable, Cell]:
    """Let views draft along a walk that stands at the end of its prompt; what became of it, by key.

    In each round a view drafts `depth` tokens, but is fed those of the text, so that all are asked
    the same. `read`, `chosen` (to choose anew, but for the first time, which is `first_chosen`) and
    `kept` are shares of the bytes of the keys and values of the text, of which there are `bytes`;
    the first two are means over drafted tokens. A view that cannot has an `error`. `step` is called
    for each draft.
    """
    plain = DraftedView(FullView(), walk)
    everyone = {
        key: Drafts(drafted, torch.zeros(walk.depth, dtype=torch.float64))
        for key, drafted in views.items()
    }
    for _ in range(rounds):
        kept.watch(plain)
        plain.begin()  # brings what follows the text in line, so that no view's first pass does it
        plain.begin()
        for one in everyone.values():
            if one.error is None:
                kept.watch(one.drafted)
                try:
                    one.draft(walk, plain.seconds)
                except SpecdecError as error:
                    one.error = f"{type(error).__name__}: {error}"
            step()
        kept.watch(plain)
        probs = walk.verify()[: walk.depth].float().softmax(-1)
        drawn = 0.0 if noise is None else gumbel(noise, len(walk.row.tokens), walk.depth, probs)
        for one in everyone.values():
            if one.error is None:
                one.compare(walk, probs, drawn)
        walk.advance()
    return {
        key: one.to_dict(0 if one.error else kept.nbytes(one.drafted))
        for key, one in everyone.items()
    }
