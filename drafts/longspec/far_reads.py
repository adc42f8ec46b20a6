"""FarReads: what a pass of the block reads of the target's KV, and of what is kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.level_attention import NO_BIASES, Reads, level_attention


@dataclass
class FarReads:
    """Reads of one layer, gathered once a round.

    levels: keys and values `[rows, Hkv, capacity, D]`.
    """

    levels: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _table: list[tuple[int, ...]] = field(default_factory=list)
    _members: list[int] = field(default_factory=list)
    _biases: list[NDArray[np.float32]] = field(default_factory=list)

    def add(
        self, level: int, row: int, start: int, end: int, members: Sequence[int],
        bias: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Let `members`, counted in the batch, see keys `start .. end` of a row of a level.

        bias: `[Hkv, end]`, added to the logits of these keys.
        """
        if end <= start:
            return
        chosen = 0
        if bias is not None:
            self._biases.append(bias.float().numpy())
            chosen = -len(self._biases)
        first = len(self._members)
        self._table.append((level, row, start, end, 0, first, len(members), chosen))
        self._members += members

    def reads(self) -> Reads | None:
        """All of them; None where there is nothing to read."""
        if not self._table:
            return None
        biases = NO_BIASES
        if self._biases:
            most = max(bias.shape[1] for bias in self._biases)
            biases = np.zeros((len(self._biases), self._biases[0].shape[0], most), np.float32)
            for to, bias in zip(biases, self._biases, strict=True):
                to[:, : bias.shape[1]] = bias
        members = np.array(self._members, np.int64)
        return Reads(np.array(self._table, np.int64), members, biases=biases)


def near_reads(
    sequences: Sequence[int], lengths: Tensor, bounds: NDArray[np.int64], staged: int, anc: Tensor
) -> Reads:
    """Reads of a window (level 0, a row for each of `sequences`) and of staged nodes (level 1).

    lengths: of all rows of the window. bounds: `int64[B, n]`, the first key of it that a node sees.
    anc: `int64[B, n, W]`, the ancestors of each node among `staged` ones.
    """
    table = [
        read
        for b, row in enumerate(sequences)
        for read in (
            (0, row, 0, int(lengths[row]), 0, b, 1, 0),
            (1, b, 0, 0, staged, b, 1, 0),
        )
    ]
    members = np.arange(len(sequences))
    words = np.ascontiguousarray(anc.numpy()).view(np.uint64)
    if not (bounds > 0).any():
        return Reads(np.array(table, np.int64), members, words)
    both = np.zeros((len(table), bounds.shape[1]), np.int64)
    both[::2] = bounds.clip(0)
    return Reads(np.array(table, np.int64), members, words, both)


def attended(q: Tensor, far: FarReads, reads: Reads | None, scale: float) -> Tensor:
    """Attention of `q[B, H, n, D]` over them, zero where there is nothing."""
    if reads is None:
        return q.new_zeros(q.shape)
    o: Tensor = level_attention(q, far.levels, reads, scale=scale)
    return o
