"""PassInputs: what tells a pass over nodes where it stands, in one buffer on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from specdec.sampling.tree import WORD

WIDTHS = (1, 2, 4, 8, 16, 32, 64)  # nodes of a pass; narrower trees are padded


def padded(nodes: int) -> int:
    """The width of a pass over so many nodes; beyond the widest, their own number."""
    return next((width for width in WIDTHS if nodes <= width), nodes)


@dataclass(frozen=True)
class PassShape:
    """`rows` sequences of `nodes` nodes each, over a store of `levels` levels.

    slots: how many staged slots the ancestor mask speaks of; `nodes` where nothing was staged
    before, else enough for all that was, in whole words of the mask.
    """

    rows: int
    nodes: int
    slots: int
    levels: int

    @classmethod
    def of(cls, rows: int, nodes: int, staged: int, levels: int) -> PassShape:
        """The shape of a pass behind `staged` slots."""
        slots = -(-(staged + nodes) // WORD) * WORD if staged else nodes
        return cls(rows, nodes, slots, levels)

    @property
    def words(self) -> int:
        """Words of the ancestor mask of a node."""
        return -(-self.slots // WORD)


class PassInputs:
    """The inputs of passes of one shape, `int64`, on `device`: `fill` changes them in place.

    ids, positions, position_ids: `[B, N]`, the last what the model rotates by; anc: `[B, N, W]`;
    staged_positions: `[B, S]`; row_maps: `[levels, B]`, the row of each sequence in each level;
    staged: `[1]`, the slots that earlier passes of the round have staged.
    """

    def __init__(self, shape: PassShape, device: torch.device) -> None:
        self.shape = shape
        rows, nodes = shape.rows, shape.nodes
        shapes = (
            (rows, nodes), (rows, nodes), (rows, nodes), (rows, nodes, shape.words),
            (rows, shape.slots), (shape.levels, rows), (1,),
        )  # fmt: skip
        self.buffer = torch.zeros(sum(map(prod, shapes)), dtype=torch.int64, device=device)
        parts = self.buffer.split(list(map(prod, shapes)))
        (
            self.ids, self.positions, self.position_ids, self.anc, self.staged_positions,
            self.row_maps, self.staged,
        ) = (part.view(size) for part, size in zip(parts, shapes, strict=True))  # fmt: skip

    def fill(
        self,
        ids: Tensor,
        positions: Tensor,
        position_ids: Tensor,
        anc: Tensor,
        staged_positions: Tensor,
        row_maps: Sequence[Tensor],
        staged: int,
    ) -> None:
        """Take over the inputs of a pass, from the host, in one copy that no one waits for.

        The host's memory is pageable: the driver has taken the numbers when the call returns.
        """
        parts = (
            ids, positions, position_ids, anc, staged_positions, *row_maps, torch.tensor([staged]),
        )  # fmt: skip
        host = torch.cat([part.reshape(-1).to(torch.int64) for part in parts])
        self.buffer.copy_(host, non_blocking=True)
