"""Nodes: the draft tokens of a round, of all rows, as the block has read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.tree_attention import windowed
from specdec.kernels.linear.decoder_run import Staging
from specdec.sampling.tree import WORD

_ROOM = 16  # nodes of a row at first; it doubles when they are more


class Nodes:
    """Tokens, keys, values and ancestors of a round's nodes, by the rows' slots, in place.

    Rows that draft have all as many nodes: `count`. k, v: `[rows, Hkv, room, D]`.
    depth: `int64[rows, room]`, from the root.
    """

    def __init__(self, rows: int, like: tuple[Tensor, Tensor]) -> None:
        self.count = 0
        self._tokens = np.zeros((rows, 1 + _ROOM), np.int64)  # of node i at i + 1
        self.k, self.v = (x.new_zeros(rows, x.shape[1], _ROOM, x.shape[3]) for x in like)
        self._none = torch.zeros(rows, dtype=torch.int32)
        self.depth = np.zeros((rows, _ROOM), np.int64)
        self._ancestors = np.zeros((rows, _ROOM, 1), np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it; they depend on the largest tree and not on the texts."""
        return self.k.nbytes + self.v.nbytes

    def begin(self, slots: Sequence[int], ahead: Sequence[int]) -> None:
        """Forget all nodes. ahead: the token in front of each row's root, or -1."""
        self.count = 0
        self._tokens[slots, 0] = ahead

    def add(
        self, slots: Sequence[int], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> list[int]:
        """Take up as many nodes of each row; the tokens before them, row by row."""
        first, rows = self.count, np.array(slots)[:, None]
        above = np.array(parents, np.int64)
        self.count = last = first + above.shape[1]
        self._reserve(last)
        here = slice(first, last)
        is_below = above >= 0
        self.depth[rows[:, 0], here] = np.where(is_below, self.depth[rows, above] + 1, 0)
        words = self._ancestors[rows, above] * is_below[..., None].astype(np.uint64)
        for i, node in enumerate(range(first, last)):
            words[:, i, node // WORD] |= np.uint64(1 << node % WORD)
        self._ancestors[rows[:, 0], here] = words
        self._tokens[rows[:, 0], first + 1 : last + 1] = tokens
        before: list[int] = self._tokens[rows, above + 1].reshape(-1).tolist()
        return before

    def staging(self, slots: Sequence[int], first: int) -> Staging:
        """Where keys and values of nodes from `first` on belong."""
        return Staging(self._none, torch.tensor(slots, dtype=torch.int32), first)

    def stage(self, slots: Sequence[int], first: int, k: Tensor, v: Tensor) -> None:
        """Write keys and values `[B, Hkv, n, D]` there."""
        self.k[slots, :, first : self.count] = k
        self.v[slots, :, first : self.count] = v

    def seen(self, slots: Sequence[int], first: int, window: int) -> NDArray[np.uint64]:
        """Bitmasks `uint64[B, n, W]` of nodes from `first` on: themselves and their ancestors, of
        the last `window` tokens."""
        rows, here = np.array(slots), slice(first, self.count)
        words = np.ascontiguousarray(self._ancestors[rows, here])
        depth = self.depth[rows, : self.count]
        if int(depth[:, first:].max()) < window:
            return words
        masks, depths = torch.from_numpy(words.view(np.int64)), torch.from_numpy(depth)
        return windowed(masks, window, depths[:, first:], depths).numpy().view(np.uint64)

    def _reserve(self, count: int) -> None:
        room = self.depth.shape[1]
        if count <= room:
            return
        more = max(room, count - room)
        self.k, self.v = _wider(self.k, more), _wider(self.v, more)
        wide, fresh = ((0, 0), (0, more)), -(-(room + more) // WORD) - self._ancestors.shape[2]
        self.depth, self._tokens = np.pad(self.depth, wide), np.pad(self._tokens, wide)
        self._ancestors = np.pad(self._ancestors, (*wide, (0, fresh)))


def _wider(x: Tensor, more: int) -> Tensor:
    return torch.cat((x, x.new_zeros(*x.shape[:2], more, x.shape[3])), 2)
