"""QuantizedView: a pass that reads every token, in fewer bits (KIVI, arXiv 2402.02750)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import Level
from specdec.errors import InvalidArgument
from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import WHOLE, LayerPlan, Needs, Partial, RowPlan
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.sparse.codecs.kivi_cache import QuantizedCopy

BITS, GROUPS = (2, 4, 8), (32, 64, 128)


@dataclass(frozen=True)
class QuantizedView:
    """All committed tokens in `bits` a number, but for the `recent` last ones and an open group.

    Keys are scaled by channel over `group` tokens, values by token over at most `group` channels.
    Staged tokens, and those that a drafter's own level holds, are read as they are, and layers with
    a sliding window read their window as it is. The copy stands beside the store: it costs its own
    memory, and saves reads only.
    """

    name: str = "kivi"
    bits: int = 4
    group: int = 64
    recent: int = 128
    lossless: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InvalidArgument(f"kv_bits={self.bits!r}: give 2, 4 or 8")
        if self.group not in GROUPS:
            raise InvalidArgument(f"kv_group={self.group!r}: give 32, 64 or 128 tokens")

    @property
    def reads(self) -> None:
        return None

    needs = Needs()

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """None: the host says how much of each copy is read."""
        return None

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """The copies of the committed levels, brought up to date, and what came since."""
        if window is not None:
            return WHOLE
        store, sequences = pass_.store, list(pass_.sequences)
        committed = len(store.levels) - (1 if store.num_shared else 0)
        copies = [self._copy(level, layer) for level in store.levels[:committed]]
        covered = torch.zeros(len(store.levels), len(sequences), dtype=torch.int64)
        extras = []
        for at, copy in enumerate(copies):
            rows = store.row_maps[at][sequences]
            if copy is not None and bool(copy.covered[rows].any()):
                covered[at] = copy.covered[rows]
                extras.append(_Copied(copy, rows))
        _note(pass_, layer, copies)
        return LayerPlan(tuple(RowPlan(tuple(x)) for x in covered.T.tolist()), extras)

    def _copy(self, level: Level, layer: int) -> QuantizedCopy | None:
        """The copy of a level that has keys, brought up to date."""
        if level.k[layer] is None:
            return None
        copy = QuantizedCopy.of(level, layer, self.bits, self.group)
        copy.update(level, layer, self.recent)
        return copy


@dataclass(frozen=True, eq=False)
class _Copied:
    """Attention over what a copy covers of the rows of a pass."""

    copy: QuantizedCopy
    rows: Tensor

    def attend(self, call: AttentionCall) -> Partial:
        return quantized_attention(
            call.q, self.copy.kv, self.copy.covered, self.rows,
            scale=call.scale, softcap=call.softcap,
        )  # fmt: skip


def _note(pass_: ForwardPass, layer: int, copies: list[QuantizedCopy | None]) -> None:
    """Count what a layer reads of each sequence: covered tokens by the bytes of their copies."""
    for segments in pass_.segments(layer):
        size = segments.total * segments.token_bytes
        for row, copy in zip(segments.rows, copies, strict=False):
            if copy is not None:
                size -= int(copy.covered[row]) * segments.token_bytes
                size += round(int(copy.covered[row]) * copy.token_bytes)
        segments.note(layer, segments.total, size)
