"""SparseView: a pass that reads the pages that matter, and nothing else of a long context."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from specdec.cache.level import Level
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import WHOLE, LayerPlan, Needs, RowPlan, whole_row
from specdec.model.target import Target
from specdec.sparse.budget import row_plan
from specdec.sparse.device.prepare import prepare
from specdec.sparse.device.static_plan import static_plan
from specdec.sparse.layer_select import LayerSelect
from specdec.sparse.page_index import PageIndex
from specdec.sparse.policy import PROMPT_QUERIES, Policy
from specdec.sparse.scorers.base import Memo


@dataclass(frozen=True)
class SparseView(Policy):
    """Any `Policy` as a view.

    Staged tokens, and those that a drafter's own level holds, are always read besides. Layers with
    a sliding window read their window. Selections live in the pass's `state`, so one view can serve
    any number of generations.
    """

    lossless: bool = False

    @property
    def reads(self) -> int | None:
        is_bounded = self.heads is None or self.heads.is_bounded
        return self.budget if is_bounded and self.share is None else None

    @property
    def needs(self) -> Needs:
        """The queries that select, and what has moved to slower memory, to be summarised before."""
        if self.groups is not None:
            return self.groups.needs
        if self.importance is not None:
            return self.importance.needs
        prompt = self.queries != "draft" or self.scorer.learns
        on_spill = () if self.scorer.learns else (self.summarise,)
        return Needs(PROMPT_QUERIES if prompt else 0, self.queries == "verified", on_spill)

    def summarise(self, level: Level, layer: int, row: int, device: torch.device) -> None:
        """Summarise, in place, pages of a row that have just moved to slower memory."""
        keys = level.k[layer]
        if keys is None or self.sharing.anchor_of(layer) != layer:
            return
        index = PageIndex.of(level, layer, row, self.scorer)
        if index is None:
            index = PageIndex.add(level, layer, row, self.scorer, Memo(layer))
        index.update(keys[row], int(level.length[row]), device)

    def check(self, target: Target) -> None:
        """Raise unless this view can serve the model."""
        if self.layers is not None and self.layer_types != tuple(target.layer_types):
            raise InvalidArgument(
                f"view {self.name!r} divides its budget among layers and was not told which the "
                "model has: give layer_types=tuple(target.layer_types)"
            )
        if all(kind == "sliding_attention" for kind in target.layer_types):
            raise UnsupportedModel(
                f"view {self.name!r} has nothing to leave out: every layer of this model reads a "
                "sliding window already"
            )
        self.sharing.check(target.layer_types)

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """See `specdec.sparse.device.prepare`; with a share, the host says how many are read."""
        return prepare(self, ahead) if self.share is None else None

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """What an anchor's selection leaves of the text, or a question to the layer's queries."""
        anchor = self.sharing.anchor_of(layer)
        if window is not None or anchor is None:
            return WHOLE
        if pass_.inputs is not None:
            return static_plan(self, pass_, layer, anchor)
        segments = pass_.segments(layer)
        if all(x.total <= self.limit(x.total) for x in segments):
            return WHOLE
        due = [
            b for b, x in enumerate(segments) if layer == anchor and self._is_due(pass_, x, layer)
        ]
        if due:
            return LayerPlan(select=LayerSelect(self, pass_, layer, due, self._standing))
        return self._standing(pass_, layer, segments)

    def _is_due(self, pass_: ForwardPass, x: Segments, layer: int) -> bool:
        if x.total <= self.limit(x.total):
            return False
        if self.trigger.looks:
            return True
        mine = pass_.state.of(x.sequence)
        return self.is_due(mine.selections.get(layer), mine, x.round, x.lengths)

    def _standing(self, pass_: ForwardPass, layer: int, segments: Sequence[Segments]) -> LayerPlan:
        """What each sequence reads by the selections that stand."""
        return LayerPlan(tuple(self._row(pass_, layer, x) for x in segments))

    def _row(self, pass_: ForwardPass, layer: int, x: Segments) -> RowPlan:
        anchor = self.sharing.anchor_of(layer)
        assert anchor is not None
        known = pass_.state.of(x.sequence).selections.get(anchor)
        is_whole = x.total <= self.limit(x.total) or known is None or known.pages is None
        if known is None or is_whole or self.sharing.reads_all(layer):
            return whole_row(len(x.lengths))
        return row_plan(known, x, self.limit(x.total))
