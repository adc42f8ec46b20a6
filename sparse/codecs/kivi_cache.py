"""QuantizedCopy: what is committed in a level of the store, once more in 8, 4 or 2 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import Level
from specdec.kernels.cache.quantize_kv import QuantizedKV, quantize_kv


class QuantizedCopy:
    """Keys and values of one layer of a level, in whole groups of committed tokens.

    `covered: int32[rows]` says how many tokens of each row are in it; the store takes them back
    where it crops a row. What was once written is not written again.
    """

    def __init__(self, k: Tensor, v: Tensor, bits: int, group: int) -> None:
        self.kv = QuantizedKV.empty(k, v, bits, group)
        self.covered = torch.zeros(k.shape[0], dtype=torch.int32)

    @classmethod
    def of(cls, level: Level, layer: int, bits: int, group: int) -> QuantizedCopy:
        """The copy of a layer that has keys, kept in the level's sidecars from the first call."""
        name = f"int{bits} in groups of {group}"
        known = level.sidecars.get((name, layer, 0))
        if known is None:
            keys, values = level.k[layer], level.v[layer]
            assert keys is not None and values is not None
            copy = cls(keys, values, bits, group)
            for row in range(level.rows):
                level.sidecars[name, layer, row] = known = _Row(copy, row)
        assert isinstance(known, _Row)
        return known.copy

    @property
    def token_bytes(self) -> float:
        """Bytes of a token in it, its part of the scales included."""
        rows, _, capacity, _ = self.kv.k.shape
        return self.kv.nbytes / (rows * capacity)

    def update(self, level: Level, layer: int, recent: int) -> None:
        """Take up, in place, the groups that are full now, but for the `recent` last tokens."""
        full = (level.length - recent).clamp_min(0) // self.kv.group * self.kv.group
        full = torch.maximum(full, self.covered)
        groups = int((full - self.covered).max()) // self.kv.group
        if groups:
            keys, values = level.k[layer], level.v[layer]
            assert keys is not None and values is not None
            quantize_kv(keys, values, self.kv, self.covered, full, groups=groups)
            self.covered = full


@dataclass
class _Row:
    """A row's part in a copy, to which the store says what is taken back."""

    copy: QuantizedCopy
    row: int

    def crop(self, length: int) -> None:
        group, covered = self.copy.kv.group, self.copy.covered
        covered[self.row] = min(int(covered[self.row]), length // group * group)
