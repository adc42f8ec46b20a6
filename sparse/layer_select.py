"""LayerSelect: an anchor layer whose own queries, or others that are kept, select what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.plan import LayerPlan, Selection
from specdec.kernels.linear.decoder_run import PendingSelection
from specdec.sparse.page_index import PageIndex
from specdec.sparse.policy import Policy
from specdec.sparse.selecting import select, settings

Standing = Callable[[ForwardPass, int, Sequence[Segments]], LayerPlan]


@dataclass(eq=False)
class LayerSelect:
    """Selects for the sequences `due` of a pass; `standing` makes the plan of what then stands.

    Where the view's trigger looks at queries, those are due for which it then says so.
    """

    policy: Policy
    pass_: ForwardPass
    layer: int
    due: Sequence[int]
    standing: Standing
    _before: Selection | None = field(default=None, init=False)

    def __call__(self, call: AttentionCall) -> LayerPlan:
        """The plan by the layer's queries, or by those that were kept."""
        segments = self.pass_.segments(self.layer)
        for b in self.due:
            if self.policy.trigger.looks and not self._has_turned(call, b, segments[b]):
                continue
            chosen = select(self.policy, self.pass_, call, b, segments[b])
            self._standing_of(segments[b])[self.layer] = chosen
        return self.standing(self.pass_, self.layer, segments)

    def _has_turned(self, call: AttentionCall, b: int, x: Segments) -> bool:
        """Whether what stands has had its time; notes this pass's queries for the next one."""
        mine = self.pass_.state.of(x.sequence)
        q, before = call.q[b, :, -1], mine.last_queries.get(self.layer)
        mine.last_queries[self.layer] = q.clone()
        known = mine.selections.get(self.layer)
        return self.policy.is_due(known, mine, x.round, x.lengths, q, before)

    def _standing_of(self, x: Segments) -> dict[int, Selection]:
        return self.pass_.state.of(x.sequence).selections

    def defer(self) -> tuple[LayerPlan, PendingSelection] | None:
        """The plan with pages that are still to be filled, and how a kernel fills them.

        None where other queries select than the layer's own, or more than a product with them and
        an index that is there, or one that is exact because it reads everything, or for several
        sequences.
        """
        segments = self.pass_.segments(self.layer)
        if len(segments) > 1:
            return None
        made = self._pending(segments[0])
        if made is None:
            return None
        standing = self._standing_of(segments[0])
        self._before = standing.get(self.layer)
        standing[self.layer], pending = made
        segments[0].reads.chose(self.layer, pending.index.nbytes)
        return self.standing(self.pass_, self.layer, segments), pending

    def withdraw(self) -> None:
        """What stood before stands again."""
        standing = self._standing_of(self.pass_.segments(self.layer)[0])
        del standing[self.layer]
        if self._before is not None:
            standing[self.layer] = self._before

    def _pending(self, x: Segments) -> tuple[Selection, PendingSelection] | None:
        policy, layer = self.policy, self.layer
        level, row, length = self.pass_.store.levels[0], x.rows[0], x.lengths[0]
        index, keys = PageIndex.of(level, layer, row, policy.scorer), level.k[layer]
        if policy.queries != "draft" or policy.sharing.exact_anchors or x.readable > 1:
            return None
        if policy.importance is not None or not policy.is_even:
            return None  # no kernel divides pages among heads, makes entries or looks at queries
        if index is None or keys is None or length < policy.page_size:
            return None
        pages = index.update(keys[row], length, keys.device)
        asked = keys[row][:, :1]
        query = policy.scorer.index_query(asked, index.memo)
        if query is None or not query.is_raw or index.summary is None:
            return None
        how = settings(policy, x, pages, policy.limit(x.total))
        chosen = torch.zeros(keys.shape[1], how.pop("count"), dtype=torch.int64)
        summary = index.summary[:, :pages].flatten(2)
        pending = PendingSelection(
            summary, chosen.numpy()[None], query.signed, votes=policy.votes, pool=policy.pool,
            all_heads=policy.sharing.all_heads, **how,
        )  # fmt: skip
        size = policy.page_size
        return Selection(x.round, chosen, (pages * size,), size), pending
