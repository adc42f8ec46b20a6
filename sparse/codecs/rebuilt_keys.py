"""RebuiltKeys: keys of selected pages out of a copy of the keys alone (ShadowKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.sparse.codecs.coded_copy import CodedRow
from specdec.sparse.codecs.coded_view import CodedView


@dataclass(frozen=True, eq=False)
class RebuiltKeys:
    """Of one text in one layer: `copies` of its levels, whose blocks are pages, and where each of
    them starts. See `specdec.forward.plan.KeysBesides`."""

    copies: Sequence[CodedRow | None]
    starts: Sequence[int]
    layer: int
    heads: int
    exact: Tensor
    token_bytes: float

    def keys(self, level: int, heads: Tensor, pages: Tensor) -> Tensor:
        """Each page is decoded once, for all heads that want it."""
        copy = self.copies[level]
        assert copy is not None
        wanted, place = pages.unique(return_inverse=True)
        k, _ = copy.decode(self.layer, self.heads, self.starts[level], wanted)
        return k.unflatten(1, (len(wanted), -1))[heads.to(k.device), place.to(k.device)]


@dataclass(frozen=True, eq=False)
class KeyCopy:
    """Where `RebuiltKeys` come from: a `KeySource`.

    view: keeps the copy, which nobody reads by itself; its codec's blocks are the pages that are
    selected.
    """

    view: CodedView

    def of(self, pass_: ForwardPass, layer: int, x: Segments, exact: Tensor) -> RebuiltKeys:
        """The copy, brought up to date."""
        copies = self.view.copies(pass_, layer, x)
        level = next(i for i, copy in enumerate(copies) if copy is not None)
        keys, values = pass_.store.levels[level].k[layer], pass_.store.levels[level].v[layer]
        assert keys is not None and values is not None
        value_bytes = values.shape[1] * values.shape[3] * values.element_size()
        blocks = sum(copy.blocks for copy in copies if copy is not None)
        kept = sum(copy.nbytes for copy in copies if copy is not None)
        each = value_bytes + kept / max(1, blocks * self.view.codec.block)
        starts = [sum(x.lengths[:at]) for at in range(len(copies))]
        return RebuiltKeys(copies, starts, layer, keys.shape[1], exact, each)
