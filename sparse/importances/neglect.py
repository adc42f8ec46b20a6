"""Neglect: how often a token was ignored of late (Scissorhands, arXiv 2305.17118)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
        late = positions.tolist()[-self.window :]
        for position, row in zip(late, ignored[:, -self.window :].unbind(1), strict=True):
            byte, bit = divmod(position % self.window, 8)
            history[:, :, byte] &= 255 - (1 << bit)
            history[:, :, byte] |= row.to(torch.uint8) << bit
        return (history,)

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        ones = torch.tensor(_ONES, dtype=torch.int16, device=statistics[0].device)
        return -ones[statistics[0].int()].sum(dim=-1).float()
