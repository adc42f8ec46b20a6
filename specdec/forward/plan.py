"""LayerPlan: what a layer of a pass reads, said before its attention runs.

The seam between views and attention. A view plans, for the host or for a device, and knows no
kernel; `attend` turns any plan into kernel calls and knows no view. What is staged is always read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specdec.cache.saved_text import SavedText
from specdec.forward.attention_call import AttentionCall
from specdec.forward.follower import Follower
from specdec.kernels.linear.decoder_run import PendingSelection

Partial = tuple[Tensor, Tensor]  # attention over some of the keys: o [B, H, N, Dv], lse [B, H, N]


@dataclass(frozen=True, eq=False)
class Entries:
    """Keys and values that stand for tokens which are not read: merged, compensating, mean ones.

    k, v: `[Hkv, n, D]` and `[Hkv, n, Dv]`. log_weight: `[Hkv, n]`, added to their logits:
    the log of how many tokens one stands for; -inf hides it.
    """

    k: Tensor
    v: Tensor
    log_weight: Tensor


class KeysBesides(Protocol):
    """Keys of selected pages that are not read where the pages lie.

    exact: `bool[Hkv, n]`, of which selected pages they are read after all. token_bytes: of what is
    read of the keys and values of a token otherwise.
    """

    @property
    def exact(self) -> Tensor: ...

    @property
    def token_bytes(self) -> float: ...

    def keys(self, level: int, heads: Tensor, pages: Tensor) -> Tensor:
        """Keys `[m, page_size, D]` of m pages of a level, each of one head: `int64[m]` both."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Pages of a sequence's committed text, for each KV head.

    pages: `int64[Hkv, n]`, best first, counted through the levels; -1 is none, so heads may read
        different numbers. None: everything is read.
    covered: tokens of each level that were there to select from.
    round: in which round it was made. entries: what stands for the tokens that are left out.
    per_head: pages that a head has on average, where heads have different numbers.
    budget: tokens that the layer may read, where that is not the view's; is_bounded: whether there
        is a bound at all.
    keys: where keys of the pages come from, if not from the store.
    """

    round: int
    pages: Tensor | None = None
    covered: tuple[int, ...] = ()
    page_size: int = 1
    entries: Entries | None = None
    per_head: int | None = None
    budget: int | None = None
    is_bounded: bool = True
    keys: KeysBesides | None = None

    @property
    def num_pages(self) -> int:
        """Pages that a head has on average."""
        assert self.pages is not None
        return self.pages.shape[1] if self.per_head is None else self.per_head

    @property
    def levels(self) -> list[tuple[int, int]]:
        """The levels that were selected from, and how much of each was there."""
        return [(level, tokens) for level, tokens in enumerate(self.covered) if tokens]

    @cached_property
    def local(self) -> NDArray[np.int64]:
        """The pages as each of these levels counts them, `[levels, Hkv, n]`; -1 in all others."""
        assert self.pages is not None
        pages, offset, out = self.pages.cpu().numpy(), 0, []
        if len(self.levels) == 1:
            return pages[None]
        if not self.levels:
            return pages[None][:0]
        for _, tokens in self.levels:
            count = tokens // self.page_size
            mine = (pages >= offset) & (pages < offset + count)
            out.append(np.where(mine, pages - offset, -1))
            offset += count
        return np.stack(out)


@dataclass(frozen=True, eq=False)
class RowPlan:
    """What one sequence reads of its committed text.

    since: of each level, the first token from which on everything is read. selection: pages read
    besides, and entries that stand for the rest; `num_pages` of its pages are read a head.
    """

    since: tuple[int, ...]
    selection: Selection | None = None
    num_pages: int = 0

    @property
    def count(self) -> int:
        """How many of each head's pages are read, as far as it has them: the best ones."""
        if self.selection is None or self.selection.pages is None:
            return 0
        widest, mean = self.selection.pages.shape[1], self.selection.num_pages
        return widest * self.num_pages // mean if mean else 0

    @property
    def entries(self) -> Entries | None:
        return None if self.selection is None else self.selection.entries

    @property
    def keys(self) -> KeysBesides | None:
        return None if self.selection is None else self.selection.keys


class QuerySelect(Protocol):
    """A layer whose own queries select what it reads."""

    def __call__(self, call: AttentionCall) -> LayerPlan:
        """The plan, once the queries are there; what was selected is kept by the view."""

    def defer(self) -> tuple[LayerPlan, PendingSelection] | None:
        """The plan before there are queries, and how a kernel completes it, in place; None where no
        kernel can."""

    def withdraw(self) -> None:
        """Take back what was deferred: no kernel has completed it."""


class StaticSelect(Protocol):
    """Selects pages on the device, in place, by the layer's queries (a static pass)."""

    def __call__(self, call: AttentionCall, whole: Partial | None) -> None:
        """whole: attention over the level that is selected from, where it was computed anyway."""


@dataclass(frozen=True, eq=False)
class StaticPlan:
    """What a static pass reads of the first level, at addresses that stay.

    select: run first, if there is one. pages: gives `int32[B, Hkv, K]`, -1 for none. since:
    `int32[B]`, the first token from which on everything is read. reads_all: everything is read.
    """

    page_size: int
    pages: Callable[[], Tensor]
    since: Callable[[], Tensor]
    reads_all: bool = False
    select: StaticSelect | None = None


class Extra(Protocol):
    """Attention over something that is no level of the store: a copy in few bits, a mean value."""

    def attend(self, call: AttentionCall) -> Partial: ...


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """What a layer reads besides what is staged.

    rows: by sequence of the pass; None: all that is committed. extras: partials merged with the
    rest. select: by the layer's own queries, first. static: for a static pass.
    """

    rows: tuple[RowPlan, ...] | None = None
    extras: Sequence[Extra] = field(default=())
    select: QuerySelect | None = None
    static: StaticPlan | None = None


WHOLE = LayerPlan()


@dataclass(frozen=True)
class Needs:
    """What a view or drafter has to be shown of the verifying model.

    prompt_queries: the last so many queries of each prompt; probe_every: its queries at every so
    manieth position (0: none); verified: those of verification; all are kept by a `QueryRecorder`.
    followers: are shown every query that the text went through. on_spill: called as (level, layer,
    row, device) when a row's oldest tokens have moved to slower memory, while they are still near:
    see `offload.TieredStore`. costs: what its passes cost on this machine, measured before the
    first round; far_costs: only where keys and values lie elsewhere than on the device. prefix:
    what prompts begin with where a view is the cache itself; nobody else's.
    """

    prompt_queries: int = 0
    verified: bool = False
    on_spill: tuple[Callable[..., None], ...] = ()
    probe_every: int = 0
    followers: tuple[Follower, ...] = ()
    costs: bool = False
    prefix: SavedText | None = None
    far_costs: bool = False

    @classmethod
    def all_of(cls, needs: Iterable[Needs]) -> Needs:
        """What satisfies everyone."""
        each = list(needs)
        return cls(
            max((x.prompt_queries for x in each), default=0),
            any(x.verified for x in each),
            tuple(told for x in each for told in x.on_spill),
            min((x.probe_every for x in each if x.probe_every), default=0),
            tuple(dict.fromkeys(follower for x in each for follower in x.followers)),
            any(x.costs for x in each),
            far_costs=any(x.far_costs for x in each),
        )


def whole_row(levels: int) -> RowPlan:
    """All committed tokens of all levels."""
    return RowPlan((0,) * levels)
