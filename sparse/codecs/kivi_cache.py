"""QuantizedCopy: what is committed in a level of the store, once more in 8, 4 or 2 bits."""

from __future__ import annotations

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
        """The copy of a layer that has keys, kept beside the level from the first call."""
        name = f"int{bits} in groups of {group}, layer {layer}"
        known = level.beside.get(name)
        if known is None:
            keys, values = level.k[layer], level.v[layer]
            assert keys is not None and values is not None
            known = level.beside[name] = cls(keys, values, bits, group)
        assert isinstance(known, cls)
        return known

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    def crop(self, row: int, length: int) -> None:
        self.covered[row] = min(int(self.covered[row]), length // self.kv.group * self.kv.group)

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
