"""Residue: what stands for the tokens that a layer does not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from specdec.forward.plan import Entries


@dataclass(frozen=True, eq=False)
class Rest:
    """A text that was selected from, in one layer.

    k, v: `[Hkv, S, D]` and `[Hkv, S, Dv]`; kept: `bool[Hkv, S]`, what is read of them; score:
    `[Hkv, S]`, their importances, those of forced tokens inf. layer: of the model.
    """

    k: Tensor
    v: Tensor
    kept: Tensor
    score: Tensor
    layer: int = 0


class Residue(Protocol):
    """Makes entries of what is left out.

    replaces: the entries stand for the kept tokens as well, as where others were merged into them;
    those are then not read themselves.
    """

    @property
    def replaces(self) -> bool: ...

    def entries(self, rest: Rest) -> Entries: ...
