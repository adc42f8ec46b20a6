"""MixedView: what a policy selects in high precision, all that it leaves out in few bits."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import LayerPlan, Needs, QuerySelect, RowPlan
from specdec.kernels.linear.decoder_run import PendingSelection
from specdec.sparse.codecs.coded_read import CodedRead
from specdec.sparse.codecs.coded_view import CodedView, extras_of, note, row_of
from specdec.sparse.view import SparseView


@dataclass(frozen=True, eq=False)
class MixedView:
    """Tokens in two precisions, by importance: `policy` selects, and what it drops is not lost.

    What the policy reads is read as `high` gives it back, or as it is in the store where that is
    None; everything else out of `low`. Both copies hold every token, so a token changes its
    precision by being selected and nothing is encoded twice. What is not in a copy yet is read as
    it is.
    """

    name: str
    policy: SparseView
    low: CodedView
    high: CodedView | None = None
    lossless: bool = field(default=False, init=False)

    @property
    def reads(self) -> None:
        return None

    @property
    def needs(self) -> Needs:
        """Those of the policy, and the queries that a codec learns from."""
        own, queries = self.policy.needs, self.low.needs.prompt_queries
        return replace(own, prompt_queries=max(own.prompt_queries, queries))

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """None: the host says how much of each copy is read."""
        return None

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        plan = self.policy.plan(pass_, layer, window)
        if window is not None or layer not in self.low.groups:
            return plan
        if plan.select is not None:
            return LayerPlan(select=MixedSelect(self, pass_, layer, plan.select))
        return self.mixed(pass_, layer, plan)

    def mixed(self, pass_: ForwardPass, layer: int, plan: LayerPlan) -> LayerPlan:
        """A plan of the policy, with the rest out of the copies."""
        if plan.rows is None:
            return plan
        rows, reads = [], []
        for x, row in zip(pass_.segments(layer), plan.rows, strict=True):
            mine = self._reads(pass_, layer, x, row)
            reads.append(mine)
            rows.append(row_of(x, mine))
            note(x, layer, mine)
        return LayerPlan(tuple(rows), extras_of(reads))

    def _reads(
        self, pass_: ForwardPass, layer: int, x: Segments, row: RowPlan
    ) -> list[CodedRead | None]:
        lows = self.low.copies(pass_, layer, x)
        highs = [None] * len(lows) if self.high is None else self.high.copies(pass_, layer, x)
        chosen = _chosen(row, len(lows))
        found: list[CodedRead | None] = []
        for at, (low, high) in enumerate(zip(lows, highs, strict=True)):
            if low is None:
                found.append(None)
                continue
            end = min(low.tokens, row.since[at], low.tokens if high is None else high.tokens)
            read = self.low.read(pass_, x, at, low, end)
            found.append(replace(read, chosen=chosen[at], high=high))
        return found


@dataclass(eq=False)
class MixedSelect:
    """What the policy selects by a layer's queries; no kernel does it, as copies are read, too."""

    view: MixedView
    pass_: ForwardPass
    layer: int
    own: QuerySelect

    def __call__(self, call: AttentionCall) -> LayerPlan:
        return self.view.mixed(self.pass_, self.layer, self.own(call))

    def defer(self) -> tuple[LayerPlan, PendingSelection] | None:
        return None

    def withdraw(self) -> None:
        raise AssertionError("nothing was deferred")


def _chosen(row: RowPlan, levels: int) -> list[Tensor | None]:
    """The tokens that a sequence selects of each level, `int64[Hkv, n]`, -1 for none."""
    out: list[Tensor | None] = [None] * levels
    selection = row.selection
    if selection is None or selection.pages is None:
        return out
    size = selection.page_size
    for (level, _), pages in zip(selection.levels, selection.local, strict=True):
        best = torch.from_numpy(pages[:, : row.count])[..., None]
        tokens = torch.where(best >= 0, best * size + torch.arange(size), -1)
        out[level] = tokens.flatten(1)
    return out
