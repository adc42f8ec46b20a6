"""Window: self-attention's keys and values of a row's newest tokens, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SLACK = 64  # slots beyond the window, so that it moves once in so many tokens

# read(rows' tokens, first positions) -> k, v `[1, Hkv, n, D]`: what the cache holds of tokens
Read = Callable[[list[int], int], tuple[Tensor, Tensor]]


class Window:
    """Keys and values of the last tokens of every row: `k, v: [rows, Hkv, window + SLACK, D]`.

    A row's slots hold tokens `start .. start + length` of its text. `follow` compares them with
    the text, so it does not matter who else has drafted, or what was taken back, in between.
    """

    def __init__(self, rows: int, window: int, like: tuple[Tensor, Tensor]) -> None:
        self.window = window
        self.k, self.v = (x.new_zeros(rows, x.shape[1], window + SLACK, x.shape[-1]) for x in like)
        self.start = [0] * rows
        self.length = torch.zeros(rows, dtype=torch.int32)
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values; they do not depend on the length of the texts."""
        return self.k.nbytes + self.v.nbytes

    def forget(self, row: int) -> None:
        """The row is another text's from now on."""
        self.start[row], self.tokens[row], self.length[row] = 0, [], 0

    def follow(self, row: int, text: Sequence[int], read: Read) -> None:
        """Hold the last `window - 1` tokens of `text` (or all of them), in place."""
        wanted = max(0, len(text) - (self.window - 1))
        held, start = self.tokens[row], self.start[row]
        keep = 0
        while keep < min(len(held), len(text) - start) and held[keep] == text[start + keep]:
            keep += 1
        if start > wanted or start + keep < wanted or len(text) - start > self.k.shape[2]:
            keep = self._restart(row, wanted, start, keep)
        start = self.start[row]
        fresh = list(text[start + keep :])
        if fresh:
            k, v = read(fresh, start + keep)
            self.k[row, :, keep : keep + len(fresh)] = k[0]
            self.v[row, :, keep : keep + len(fresh)] = v[0]
        self.tokens[row] = list(text[start:])
        self.length[row] = len(text) - start

    def _restart(self, row: int, wanted: int, start: int, keep: int) -> int:
        """Let the row begin at `wanted`; returns how many of its slots are still good."""
        drop = wanted - start
        left = keep - drop if 0 <= drop < keep else 0
        if left:
            for buffer in (self.k, self.v):
                buffer[row, :, :left] = buffer[row, :, drop:keep].clone()
        self.start[row] = wanted
        return left
