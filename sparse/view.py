"""SparseView: a pass that reads the pages that matter, and nothing else of a long context."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specdec.cache.store import Level
from specdec.decoding.drafter import Wants
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.forward.forward_pass import AttentionCall, ForwardPass, ReadAhead
from specdec.forward.full_view import FullView
from specdec.forward.pass_ahead import PassAhead
from specdec.model.target import Target
from specdec.sparse import reads_ahead
from specdec.sparse.attend import attend_choice, attend_spans
from specdec.sparse.budget import whole
from specdec.sparse.choose import Choice, choose
from specdec.sparse.device import attend, prepare
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.page_index import PageIndex
from specdec.sparse.scorers.base import Memo, Scorer
from specdec.sparse.sequence_places import Layout, Place

QUERIES = ("draft", "verified", "prompt")
PROMPT_QUERIES = 32  # of the prompt's end, that vote for it (SnapKV) or calibrate labels
REFRESH = ("pass", "round", "falling", "prompt")


@dataclass(frozen=True)
class SparseView:
    """Any scorer with any sharing plan.

    budget: the most tokens that a layer reads of the committed text, the `sink` first and `recent`
        last ones, the open page and what came since the last choice included (see
        `extent.shares`). A text that is not longer is read whole, and `Reads` counts that.
    queries: whose queries choose: the draft's own, those of the last verification, the prompt's.
    refresh: when to choose anew: every "pass", every speculation "round", when acceptance is
        "falling", or once per "prompt"; a number means every so many rounds.
    votes, pool: see `kernels.select_pages.importance`.

    Staged tokens, and those that a drafter's own level holds, are always read besides. Layers with
    a sliding window read their window. Choices live in the pass's `state`, so one view can serve
    any number of generations.
    """

    name: str
    scorer: Scorer
    sharing: Sharing = field(default_factory=Sharing)
    budget: int = 512
    sink: int = 16
    recent: int = 64
    queries: str = "draft"
    refresh: str | int = "round"
    votes: str = "max"
    pool: int = 1
    lossless: bool = False

    def __post_init__(self) -> None:
        least = self.sink + self.recent + self.scorer.page_size
        if self.budget < least:
            raise InvalidArgument(
                f"budget={self.budget} is below sink + recent + one page = {self.sink} + "
                f"{self.recent} + {self.scorer.page_size}: give at least {least}"
            )
        if self.queries not in QUERIES:
            raise InvalidArgument(f"queries={self.queries!r} is unknown: give {QUERIES}")
        if self.refresh not in REFRESH and not (
            isinstance(self.refresh, int) and self.refresh >= 1
        ):
            raise InvalidArgument(f"refresh={self.refresh!r}: give {REFRESH} or a number of rounds")

    @property
    def wants(self) -> Wants:
        """The queries that this view needs from the verifying model."""
        labels = self.scorer.name == "label-channels"
        prompt = PROMPT_QUERIES if self.queries != "draft" or labels else 0
        moved = () if labels else (self.summarise,)
        return Wants(prompt, self.queries == "verified", moved=moved)

    def summarise(self, level: Level, layer: int, row: int, device: torch.device) -> None:
        """Take up, in place, pages of a row that have just moved to slower memory."""
        keys = level.k[layer]
        if keys is None or self.sharing.anchor_of(layer) != layer:
            return
        index = PageIndex.of(level, layer, row, self.scorer)
        if index is None:
            index = PageIndex.add(level, layer, row, self.scorer, Memo(layer))
        index.update(keys[row], int(level.length[row]), device)

    def check(self, target: Target) -> None:
        """Raise unless this view can serve the model."""
        self.sharing.check(target.layer_types)
        if all(kind == "sliding_attention" for kind in target.layer_types):
            raise UnsupportedModel(
                f"view {self.name!r} has nothing to leave out: every layer of this model reads a "
                "sliding window already"
            )

    def ready(self, ahead: PassAhead) -> Hashable | None:
        """See `specdec.sparse.device.prepare.ready`."""
        return prepare.ready(self, ahead)

    def attend(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
        dense = call.window is not None or self.sharing.anchor_of(call.layer) is None
        if pass_.anc is None or dense:
            return FullView().attend(pass_, call)
        if pass_.inputs is not None:
            return attend.attend(self, pass_, call)
        places = Layout.of(pass_, call.layer).places
        if all(place.total <= self.budget for place in places):
            return FullView().attend(pass_, call)
        pass_.store.stage(call.layer, pass_.sequences, call.k, call.v, pass_.staged)
        rows = [self._row(pass_, call, b, place) for b, place in enumerate(places)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def reads_ahead(
        self, pass_: ForwardPass, layers: Sequence[int], window: int | None
    ) -> list[ReadAhead] | None:
        """See `specdec.sparse.reads_ahead`."""
        return reads_ahead.reads_ahead(self, pass_, layers, window)

    def _row(self, pass_: ForwardPass, call: AttentionCall, b: int, place: Place) -> Tensor:
        """Attention of one sequence over what it reads of the committed text, and the staged."""
        choice = self._choice(pass_, call, b, place)
        if choice is None or choice.pages is None or self.sharing.reads_all(call.layer):
            return attend_spans(pass_, call, b, place, whole(place))
        return attend_choice(pass_, call, b, place, choice, self.budget, self.scorer.page_size)

    def _choice(
        self, pass_: ForwardPass, call: AttentionCall, b: int, place: Place
    ) -> Choice | None:
        """What this sequence reads in this layer; None or a choice without pages: everything."""
        if place.total <= self.budget:
            return None
        anchor = self.sharing.anchor_of(call.layer)
        known: Choice | None = pass_.state.get((place.sequence, anchor))
        here = pass_.state, place.sequence, place.round, place.lengths
        if call.layer == anchor and (known is None or self.is_due(known, *here)):
            known = pass_.state[place.sequence, anchor] = choose(self, pass_, call, b, place)
        return known

    def is_due(
        self,
        known: Choice,
        state: dict[Any, Any],
        sequence: int,
        round_: int,
        lengths: Sequence[int],
    ) -> bool:
        """Whether a sequence, with `lengths` tokens in the levels, has to be chosen for anew."""
        age = round_ - known.round
        taken_back = any(n > there for n, there in zip(known.covered, lengths, strict=False))
        if self.refresh == "pass" or taken_back:
            return True
        if known.pages is None or self.refresh == "round":
            return age > 0
        if self.refresh == "falling":
            return age > 0 and bool(state.get(("falling", sequence)))
        return self.refresh != "prompt" and age >= int(self.refresh)
