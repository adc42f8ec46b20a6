"""PassNodes: new nodes of some rows, side by side, as a pass takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.cached_tokens import CachedTokens, depths
from specdec.sampling.tree import ancestor_words


@dataclass(frozen=True, eq=False)
class PassNodes:
    """`N` new slots for each of `B` rows, from slot `first` on; shorter rows are padded.

    ids: `[B][N]`, 0 for padding. positions: `int64[B, first + N]` of all staged slots. offsets:
    `int64[B, 1]`, what the model is told beyond them (`Row.offset`). slots, parents: what each row
    has staged once all went well, as `CachedTokens` keeps it.
    """

    first: int
    width: int
    ids: list[list[int]]
    positions: Tensor
    offsets: Tensor
    slots: list[list[int]]
    parents: list[list[int]]

    @classmethod
    def of(
        cls,
        held: Sequence[CachedTokens],
        tokens: Sequence[list[int]],
        parents: Sequence[list[int]],
        width: int,
        ahead: int | None,
        offsets: Sequence[int],
    ) -> PassNodes:
        """`tokens[row]` below slots `parents[row]`, behind what `held` has staged.

        ahead: a position that the last slot of the first row takes, which nobody sees; `width` has
        room for it.
        """
        first = len(held[0].slots)
        slots, above = [], []
        for one, new, below in zip(held, tokens, parents, strict=True):
            rest = [-1] * (width - len(new))
            slots.append([*one.slots, *new, *rest])
            above.append([*one.parents, *below, *rest])
        places = [
            [len(one.tokens) + depth for depth in depths(row)]
            for one, row in zip(held, above, strict=True)
        ]
        if ahead is not None:
            places[0][-1] = ahead
        ids = [[max(token, 0) for token in row[first:]] for row in slots]
        told = torch.tensor(offsets)[:, None]
        return cls(first, width, ids, torch.tensor(places), told, slots, above)

    @property
    def position_ids(self) -> Tensor:
        """By what the model rotates the new nodes, `int64[B, N]`."""
        return self.positions[:, self.first :] + self.offsets

    def ancestors(self, slots: int | None = None) -> Tensor:
        """The ancestor mask `int64[B, N, W]` of the new nodes over so many slots; None: all."""
        count = self.first + self.width if slots is None else slots
        return ancestor_words(self.parents, count)[:, self.first : self.first + self.width]

    def take_up(self, held: Sequence[CachedTokens]) -> None:
        """Say that all this has been staged."""
        for one, slots, parents in zip(held, self.slots, self.parents, strict=True):
            one.stage(slots, parents)
