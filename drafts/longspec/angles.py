"""Angles: cos and sin of the positions that a drafter asks for again and again."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from specdec.drafts.longspec.rotary import Rotary

CHUNK = 256  # positions that are worked out together
_KEPT = 64  # chunks; with heads of 64 8 MB


class Angles:
    """`rotary.angles` by looking them up, for positions in host memory.

    Asking a target costs as much as a small matrix. Angles that change with the length of a text
    are not kept.
    """

    def __init__(self, rotary: Rotary) -> None:
        self._rotary = rotary
        self._chunks: OrderedDict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = OrderedDict()

    def at(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin `[B, n, rotary]` of `positions[B, n]`, in x's dtype."""
        if not self._rotary.are_fixed:
            return self._rotary.angles(x, positions)
        first, last = (int(end) // CHUNK for end in positions.aminmax())
        if first == last:
            cos, sin = self._chunk(x, first)
            where = positions - first * CHUNK
            return cos[where], sin[where]
        numbers = (positions // CHUNK).unique()
        each = [self._chunk(x, number) for number in numbers.tolist()]
        where = torch.searchsorted(numbers, positions // CHUNK) * CHUNK + positions % CHUNK
        return torch.cat([cos for cos, _ in each])[where], torch.cat([sin for _, sin in each])[
            where
        ]

    def _chunk(self, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        key = number, x.dtype
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        positions = torch.arange(number * CHUNK, (number + 1) * CHUNK)[None]
        cos, sin = (one[0] for one in self._rotary.angles(x[:1], positions))
        self._chunks[key] = cos, sin
        if len(self._chunks) > _KEPT:
            self._chunks.popitem(last=False)
        return cos, sin
