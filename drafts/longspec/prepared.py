"""Prepared: a checkpoint made ready for one target."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from specdec.drafts.longspec.block import LongSpecBlock
from specdec.drafts.longspec.packed_block import PackedBlock
from specdec.drafts.longspec.rotary import Rotary


@dataclass(frozen=True)
class Prepared:
    """A checkpoint made ready for one target: the block, and its rows of the target's LM head.

    ids: the token of each row, or None for all of them. packed: the block in fewer calls, where
    there are kernels for it.
    """

    block: LongSpecBlock
    rotary: Rotary
    head: nn.Linear
    ids: Tensor | None
    packed: PackedBlock | None
