"""ValueMean: the mean value of a row's committed tokens, kept beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.cache.level import Level

NAME = "mean values"


@dataclass(eq=False)
class ValueMean:
    """Sums of the values of the first tokens, by layer and row, in float64: a `Beside`. Tokens that
    are taken back cannot be taken out of a sum that others may follow, so then it is made anew."""

    sums: dict[tuple[int, int], tuple[int, Tensor]] = field(default_factory=dict)

    @classmethod
    def beside(cls, level: Level) -> ValueMean:
        """Those of a level, from the first call."""
        known = level.beside.setdefault(NAME, cls())
        assert isinstance(known, cls)
        return known

    def total(self, level: Level, layer: int, row: int, count: int, device: torch.device) -> Tensor:
        """The sum of the first `count` values, `[Hkv, Dv]`; what is new is brought to `device`."""
        values = level.v[layer]
        assert values is not None
        end, held = self.sums.get((layer, row), (0, None))
        if held is None or end > count:
            end, held = (
                0,
                values.new_zeros(
                    values.shape[1], values.shape[3], dtype=torch.float64, device=device
                ),
            )
        if count > end:
            new = level.bring(values, layer, row, end, count, device)
            held = held + new.double().sum(dim=1)
            self.sums[layer, row] = count, held
        return held

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for _, x in self.sums.values())

    def crop(self, row: int, length: int) -> None:
        for key, (end, _) in list(self.sums.items()):
            if key[1] == row and end > length:
                del self.sums[key]
