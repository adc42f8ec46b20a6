"""Policy: by what a sparse view selects, how much, and when anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.forward.plan import Selection
from specdec.forward.view_state import SequenceState
from specdec.sparse.budgets.head_budget import HeadBudget
from specdec.sparse.budgets.layer_budget import LayerBudget
from specdec.sparse.groupings.base import Grouping
from specdec.sparse.importances.importance import Importance
from specdec.sparse.key_source import KeySource
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.residues.base import Residue
from specdec.sparse.scorers.base import Scorer
from specdec.sparse.scorers.recency import Recency
from specdec.sparse.triggers.base import Moment, Trigger
from specdec.sparse.triggers.spelling import trigger_of

QUERIES = ("draft", "verified", "prompt")
PROMPT_QUERIES = 32  # of the prompt's end, that vote for it (SnapKV) or calibrate labels


@dataclass(frozen=True)
class Policy:
    """Any scorer with any sharing plan.

    budget: the most tokens that a layer reads of the committed text, the `sink` first and `recent`
        last ones, the open page and what came since the last selection included (see
        `budget.split`). A text that is not longer is read whole, and `ReadStats` counts that.
    queries: whose queries select: the draft's own, those of the last verification, the prompt's.
    refresh: when to select anew: a trigger, or how one is spelled (`triggers.spelling`): every
        "pass", every speculation "round", when acceptance is "falling", once per "prompt", when the
        query takes a "turn"; a number means every so many rounds.
    votes, pool: see `kernels.selection.select_pages.importance`.
    heads: how the pages are divided among KV heads; None gives each the same number.
    residue: what stands for the tokens that are left out; None is nothing.
    importance: what judges pages in place of the scorer and of all `queries`, votes and pooling.
    keys: where keys of selected pages come from that are read by their score; None is the store.
    groups: what cuts the text into groups of uneven size and chooses among these, in place of all
        of that; it knows no budgets of layers or heads.
    share: of the committed text, that is read instead of `budget` tokens where it is more of them.
    layers: how `budget` is divided among layers; None gives each the same. It needs `layer_types`,
        the model's.
    """

    name: str
    scorer: Scorer = field(default_factory=Recency)
    sharing: Sharing = field(default_factory=Sharing)
    budget: int = 512
    sink: int = 16
    recent: int = 64
    queries: str = "draft"
    refresh: str | int | Trigger = "round"
    votes: str = "max"
    pool: int = 1
    heads: HeadBudget | None = None
    residue: Residue | None = None
    share: float | None = None
    importance: Importance | None = None
    groups: Grouping | None = None
    keys: KeySource | None = None
    layers: LayerBudget | None = None
    layer_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = self.sink + self.recent + self.page_size
        if self.budget < least:
            raise InvalidArgument(
                f"budget={self.budget} is below sink + recent + one page = {self.sink} + "
                f"{self.recent} + {self.page_size}: give at least {least}"
            )
        estimates = self.groups is not None and self.groups.estimates
        if (self.residue is not None or estimates) and self.sharing.anchors is not None:
            raise InvalidArgument(
                f"view {self.name!r} makes what stands for the rest of each layer's own keys, so "
                "layers cannot share a choice: leave out anchors"
            )
        if self.queries not in QUERIES:
            raise InvalidArgument(f"queries={self.queries!r} is unknown: give {QUERIES}")
        if self.share is not None and not 0 < self.share <= 1:
            raise InvalidArgument(f"share={self.share!r} is outside (0, 1]")
        asks_late = self.importance is None and self.queries == "draft"
        if asks_late and self.layers is not None and self.layers.looks:
            raise InvalidArgument(
                f"view {self.name!r} divides its budget by the importances of all layers, which "
                "are not known before they run where a draft's own queries select: give queries "
                "'verified' or 'prompt'"
            )
        trigger_of(self.refresh)  # refuses what is none

    def limit(self, total: int) -> int:
        """The most tokens that are read of a text of so many, by a layer on average."""
        return self.budget if self.share is None else max(self.budget, round(self.share * total))

    @property
    def page_size(self) -> int:
        """Tokens that are selected together."""
        if self.groups is not None:
            return 1
        return self.scorer.page_size if self.importance is None else self.importance.page_size

    @property
    def is_even(self) -> bool:
        """Whether every head and layer reads as many pages and nothing stands for the rest, as
        static passes and fused layers have it, and nobody looks at queries to know when."""
        parts = (self.heads, self.residue, self.layers, self.groups, self.keys)
        return all(part is None for part in parts) and not self.trigger.looks

    @property
    def selecting(self) -> list[int]:
        """The layers that select for themselves, of a model with `layer_types`."""
        kinds = enumerate(self.layer_types)
        full = (layer for layer, kind in kinds if kind != "sliding_attention")
        return [layer for layer in full if self.sharing.anchor_of(layer) == layer]

    @cached_property
    def trigger(self) -> Trigger:
        """What `refresh` stands for."""
        return trigger_of(self.refresh)

    def is_due(
        self,
        known: Selection | None,
        state: SequenceState,
        round_: int,
        lengths: Sequence[int],
        q: Tensor | None = None,
        before: Tensor | None = None,
    ) -> bool:
        """Whether a sequence, with `lengths` tokens in the levels, has to be selected for anew.

        q, before: the layer's queries of this pass and the one before, for a trigger that looks.
        """
        if known is None or any(n > m for n, m in zip(known.covered, lengths, strict=False)):
            return True
        moment = Moment(
            round_ - known.round,
            sum(lengths) - sum(known.covered),
            known.pages is None,
            state.is_falling,
            q,
            before,
        )
        return self.trigger.is_due(moment)
