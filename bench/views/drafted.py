"""DraftedView: a view that is fed a text beside a walk, and what its passes read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from specdec.bench.views.attention_mass import Walk
from specdec.decoding.cached_model import CachedModel
from specdec.forward.forward_pass import View
from specdec.forward.view_reads import PassRead
from specdec.sampling.tree import TokenTree
from specdec.sparse.codecs.coded_view import CodedView
from specdec.sparse.codecs.mixed_view import MixedView
from specdec.sparse.tails.tail_view import TailView
from specdec.sparse.triggers.base import Moment
from specdec.sparse.view import SparseView

AT_ONCE = 32  # tokens of a pass


@dataclass
class DraftedView:
    """A view that reads what a walk has committed, and is fed what follows.

    is_lossy: it stands for the target itself, so that each token is a round of its own.
    read: what passes have read since `begin`, one for each token. seconds: of the first of them.
    """

    view: View
    walk: Walk
    is_lossy: bool = False
    read: list[PassRead] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.model = CachedModel(self.walk.target, self.view, [self.walk.row], base=self.walk.model)
        self._slots: list[int] = []

    @torch.inference_mode()
    def begin(self) -> Tensor:
        """Logits `[V]` after the last token of the walk; what was fed is forgotten."""
        row, start = self.walk.row, perf_counter()
        self._next_round()
        (logits,) = self.model.forward([row], [TokenTree.root(row.tokens[-1])])
        self.seconds = perf_counter() - start
        self._slots, self.read = [self.model.root_slot(row)], self._last(1)
        return logits[-1]

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Logits `[n, V]` after each of n more tokens, as if they were read one by one.

        They are, where passes may select anew; otherwise a pass over several gives the same.
        """
        row, found = self.walk.row, []
        size = 1 if selects_in_passes(self.view, self.is_lossy) else AT_ONCE
        for first in range(0, len(tokens), size):
            some = list(tokens[first : first + size])
            self._next_round()
            behind = len(self.model.text.held[row.index].slots)
            parents = [self._slots[-1], *range(behind, behind + len(some) - 1)]
            start, logits = self.model.grow([row], [some], [parents])
            self._slots += range(start, start + len(some))
            self.read += self._last(len(some))
            found.append(logits[0, : len(some)])
        return torch.cat(found)

    def take_back(self, count: int) -> None:
        """Go on as if the last `count` tokens had not been fed."""
        if count:
            del self._slots[-count:], self.read[-count:]

    def _next_round(self) -> None:
        if self.is_lossy:
            self.model.text.rounds[self.walk.row.index] += 1

    def _last(self, count: int) -> list[PassRead]:
        known = self.model.state.of(self.walk.row.index).reads
        return [] if known is None else known.each[-1:] * count


def selects_in_passes(view: View, is_lossy: bool = False) -> bool:
    """Whether a pass inside a draft may select anew, by its own queries; so is thought of every
    view that is not known not to. is_lossy: each pass is a round."""
    if isinstance(view, MixedView):
        view = view.policy
    if not isinstance(view, SparseView):
        return not isinstance(view, (CodedView, TailView))
    by_own = view.groups is not None or (view.importance is None and view.queries == "draft")
    is_due = view.trigger.is_due(Moment(age=int(is_lossy)))
    return view.trigger.looks or (is_due and by_own)
