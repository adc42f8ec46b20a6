"""FarReads: what a pass of the block reads of the target's KV, and of what is kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.level_attention import NO_BIASES, NO_BOUNDS, Reads
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.linear.draft_block import Attended


@dataclass(frozen=True)
class _Pass:
    """Arguments of `prefix_attention` but for the queries; first: of sequences, not of nodes."""

    k: Tensor
    v: Tensor
    length: Tensor
    rows: Tensor
    first: Tensor
    bias: Tensor | None


@dataclass
class FarReads:
    """Reads of one layer, gathered once a round for a batch of `batch`, and done in either way: by
    `attended`, for kernels that take them as they are, or by `attention`.

    levels: keys and values `[rows, Hkv, capacity, D]`.
    """

    batch: int
    levels: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _table: list[tuple[int, ...]] = field(default_factory=list)
    _members: list[int] = field(default_factory=list)
    _biases: list[Tensor] = field(default_factory=list)

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
            self._biases.append(bias.float())
            chosen = -len(self._biases)
        first = len(self._members)
        self._table.append((level, row, start, end, 0, first, len(members), chosen))
        self._members += members

    @cached_property
    def attended(self) -> Attended:
        """All of them, in host memory."""
        table = np.array(self._table, np.int64).reshape(-1, 8)
        biases = NO_BIASES
        if self._biases:
            most = max(bias.shape[1] for bias in self._biases)
            biases = np.zeros((len(self._biases), self._biases[0].shape[0], most), np.float32)
            for to, bias in zip(biases, self._biases, strict=True):
                to[:, : bias.shape[1]] = bias.numpy()
        return Attended(self.levels, Reads(table, np.array(self._members, np.int64), biases=biases))

    def attention(self, q: Tensor, value_dim: int, scale: float) -> Tensor:
        """Attention of `q[B, H, n, D]` over them, `[B, H, n, Dv]`, zero where there is nothing."""
        if not self._passes:
            return q.new_zeros(*q.shape[:3], value_dim)
        partials = [
            prefix_attention(
                q, each.k, each.v, each.length, each.rows, scale=scale, bias=each.bias,
                first=each.first.to(q.device)[:, None].expand(-1, q.shape[2]),
            )
            for each in self._passes
        ]  # fmt: skip
        o: Tensor = merge(partials)[0]
        return o.to(q.dtype)

    @cached_property
    def _passes(self) -> list[_Pass]:
        """As few as there can be: in each a sequence reads one row of a level, up to one end."""
        found: list[tuple[int, dict[int, int], dict[int, tuple[int, int]], dict[int, Tensor]]] = []
        for level, row, start, end, _, at, count, chosen in self._table:
            members = self._members[at : at + count]
            bias = self._biases[-chosen - 1] if chosen else None
            for known, ends, reads, biases in found:
                is_free = known == level and reads.keys().isdisjoint(members)
                if is_free and bool(chosen) == bool(biases) and ends.get(row, end) == end:
                    break
            else:
                ends, reads, biases = {}, {}, {}
                found.append((level, ends, reads, biases))
            ends[row] = end
            reads |= dict.fromkeys(members, (row, start))
            if bias is not None:
                biases[row] = bias
        return [self._pass(*each) for each in found]

    def _pass(
        self, level: int, ends: dict[int, int], reads: dict[int, tuple[int, int]],
        biases: dict[int, Tensor],
    ) -> _Pass:  # fmt: skip
        k, v = self.levels[level]
        length = torch.zeros(k.shape[0], dtype=torch.int32)
        length[list(ends)] = torch.tensor(list(ends.values()), dtype=torch.int32)
        other = next(iter(ends))  # a sequence that reads nothing here begins at the end of this row
        each = [reads.get(b, (other, ends[other])) for b in range(self.batch)]
        rows = torch.tensor([row for row, _ in each], dtype=torch.int32)
        first = torch.tensor([start for _, start in each])
        added = None
        if biases:
            added = torch.zeros(k.shape[:3], dtype=torch.float32, device=k.device)
            for row, bias in biases.items():
                added[row, :, : bias.shape[1]] = bias
        return _Pass(k, v, length, rows, first, added)


def near_reads(
    slots: Sequence[int],
    lengths: Tensor,
    bounds: NDArray[np.int64],
    staged: int,
    ancestors: NDArray[np.uint64],
) -> Reads:
    """Reads of a window (level 0) and of staged nodes (level 1), each a row for each of `slots`.

    lengths: of all rows of the window. bounds: `int64[B, n]`, the first key of it that a node sees.
    ancestors: `uint64[B, n, W]`, those of each node among the staged ones.
    """
    members = np.arange(len(slots))
    table = np.zeros((len(slots), 2, 8), np.int64)
    table[:, :, 1] = np.array(slots)[:, None]
    table[:, 0, 3] = lengths.numpy()[slots]
    table[:, 1, 0], table[:, 1, 4] = 1, staged
    table[:, :, 5], table[:, :, 6] = members[:, None], 1
    both = NO_BOUNDS
    if (bounds > 0).any():
        both = np.zeros((2 * len(slots), bounds.shape[1]), np.int64)
        both[::2] = bounds.clip(0)
    return Reads(table.reshape(-1, 8), members, ancestors, both)
