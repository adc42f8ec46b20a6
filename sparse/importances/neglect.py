"""Neglect: how often a token was ignored of late (Scissorhands, arXiv 2305.17118)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.errors import InvalidArgument
from specdec.sparse.importances.base import Observed, Statistics, grown

_ONES = tuple(bin(byte).count("1") for byte in range(256))


@dataclass(frozen=True)
class Neglect:
    """score[h, t] = -#{i in the last `window` queries: mean over g of A[h, g, i, t] < 1 / (i + 1)}.

    A query at position i sees i + 1 tokens, so a token is ignored where it gets less than if all
    got the same. One bit for each token and position modulo `window` keeps the history (window 400:
    Scissorhands, algorithm 2), so counts are exact however queries arrive. The paper counts in a
    cache of each query head; a KV head goes by the mean of its group.
    """

    window: int = 400

    def __post_init__(self) -> None:
        if self.window < 8 or self.window % 8:
            raise InvalidArgument(f"window={self.window}: give a multiple of 8 queries")

    @property
    def key(self) -> str:
        return f"neglect-{self.window}"

    def begin(self, heads: int, like: Tensor) -> Statistics:
        """Bits of the history, `uint8[Hkv, T, window / 8]`."""
        return (torch.zeros(heads, 0, self.window // 8, dtype=torch.uint8, device=like.device),)

    def update(self, statistics: Statistics, seen: Observed) -> Statistics:
        mass = seen.mass.mean(dim=1)
        positions = seen.positions.to(mass.device)
        shares = 1 / (positions + 1).to(mass)[:, None]
        tokens = torch.arange(mass.shape[-1], device=mass.device)
        ignored = (mass < shares) & (tokens <= positions[:, None])
        history = grown(statistics[0], mass.shape[-1])
        late, end = ignored[:, -self.window :], seen.first + ignored.shape[1]
        start = end - late.shape[1]
        whole = min(-start % 8, late.shape[1])  # rows up to the next byte: no byte comes twice then
        for rows, first in ((late[:, :whole], start), (late[:, whole:], start + whole)):
            if rows.shape[1]:
                self._note(history, rows, first)
        return (history,)

    def _note(self, history: Tensor, rows: Tensor, first: int) -> None:
        """Write the bits `bool[Hkv, n, T]` of positions from `first` on, in place."""
        count, before = rows.shape[1], first % 8
        bits = pad(rows.to(torch.uint8), (0, 0, before, -(before + count) % 8)).unflatten(
            1, (-1, 8)
        )
        packed = sum(bit << i for i, bit in enumerate(bits.unbind(2)))
        for i, byte in enumerate(packed.unbind(1)):
            low, high = max(before - 8 * i, 0), min(before + count - 8 * i, 8)
            place = (first // 8 + i) % (self.window // 8)
            history[:, :, place] &= 255 - ((1 << high) - (1 << low))
            history[:, :, place] |= byte

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        ones = torch.tensor(_ONES, dtype=torch.int16, device=statistics[0].device)
        return -ones[statistics[0].int()].sum(dim=-1).float()
