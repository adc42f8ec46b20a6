"""Trigger: when a sequence is selected for anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moment:
    """A layer that chooses, before a pass over a sequence for which a selection stands.

    age: rounds since it was made; tokens: committed since then. is_whole: it left nothing out.
    is_falling: acceptance is falling. q, before: the layer's queries `[H, D]` of the last node of
    this pass and of the one before, for a trigger that looks at them.
    """

    age: int
    tokens: int = 0
    is_whole: bool = False
    is_falling: bool = False
    q: Tensor | None = None
    before: Tensor | None = None


class Trigger(Protocol):
    """Says whether what stands has had its time. A selection of tokens that were taken back has,
    whatever the trigger says; where none stands, none is asked.

    looks: it goes by the queries of each pass, which are then shown to it, once a pass.
    """

    @property
    def looks(self) -> bool: ...

    def is_due(self, moment: Moment) -> bool: ...
