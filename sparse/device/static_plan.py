"""static_plan: what a sparse view reads in a static pass, selected on the device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.plan import LayerPlan, Partial, StaticPlan
from specdec.forward.static_attend import StaticReads
from specdec.kernels.selection.page_mass import page_mass
from specdec.kernels.selection.topk_pages import topk_pages
from specdec.sparse.device.selections import StaticSelections
from specdec.sparse.policy import Policy
from specdec.sparse.triggers.every_pass import EveryPass


def static_plan(policy: Policy, pass_: ForwardPass, layer: int, anchor: int) -> LayerPlan:
    """The plan of a layer that reads an anchor's selection, its own perhaps."""
    held = pass_.state.static
    assert isinstance(held, StaticSelections)
    reads = StaticReads.of(pass_, pass_.positions.device)

    def pages() -> Tensor:
        return held.of(anchor, reads.row_maps[-1].long())

    def since() -> Tensor:
        return held.since[reads.row_maps[-1].long()]

    is_due = policy.trigger == EveryPass() or not reads.is_later
    selects = held.selects and anchor == layer and is_due
    return LayerPlan(
        static=StaticPlan(
            policy.page_size,
            pages,
            since,
            reads_all=policy.sharing.reads_all(layer),
            select=_Select(policy, held, reads) if selects else None,
        )
    )


@dataclass(frozen=True, eq=False)
class _Select:
    """Scores the pages of the first level and keeps the best of each sequence, in place."""

    policy: Policy
    held: StaticSelections
    reads: StaticReads

    def __call__(self, call: AttentionCall, whole: Partial | None) -> None:
        policy, reads = self.policy, self.reads
        sequences = reads.row_maps[-1].long()
        scores = self._scores(call, whole)
        if policy.sharing.all_heads:
            scores = scores.amax(1, keepdim=True).expand_as(scores).contiguous()
        full = self.held.since[sequences]
        best = topk_pages(
            scores,
            full // policy.page_size,
            reads.lengths[0][reads.row_maps[0].long()] - full,
            page_size=policy.page_size,
            budget=policy.budget,
            sink=policy.sink,
            recent=policy.recent,
        )
        self.held.pages[call.layer].index_copy_(0, sequences, best)

    def _scores(self, call: AttentionCall, whole: Partial | None) -> Tensor:
        """Scores `[B, Hkv, P]` of the pages of the first level."""
        scorer, rows, index = self.policy.scorer, self.reads.row_maps[0], self.held.index
        if index is not None:
            assert scorer.level is not None and index.covered_on is not None
            return scorer.level.scores(call.q, index.summaries[call.layer], index.covered_on, rows)
        _, lse = self.reads.prefix(call, 0, None) if whole is None else whole
        k, _ = self.reads.levels[0].buffers(call.layer, call.k, call.v)
        return page_mass(
            call.q, k, lse, self.reads.lengths[0], rows, page_size=scorer.page_size,
            scale=call.scale, softcap=call.softcap, votes=self.policy.votes,
        )[:, :, : k.shape[2] // scorer.page_size]  # fmt: skip
