"""Philox4x32-10: random bits as a pure function of a key and a counter (Salmon et al., SC'11).

Counter-based noise needs no state, so a token's noise depends on nothing but its key and place: not
on the batch, the drafter or the number of passes. The generator and its word order are those of
`triton.language.philox`, so that a fused kernel can produce the same bits.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUND = (0xD2511F53, 0xCD9E8D57)  # multipliers of the two lanes
_WEYL = (0x9E3779B9, 0xBB67AE85)  # key schedule


Word: TypeAlias = int | Tensor


def philox(key: Word, counter: tuple[Word, Word, Word], blocks: Tensor) -> Tensor:
    """Random words `int64[4 * n]`, each in [0, 2^32).

    `blocks: int64[n]` is the fastest counter word, one for every four output words; `counter` holds
    the other three; `key` counts modulo 2^64. Key and counter words may be tensors like `blocks`,
    of any shape.
    """
    a = blocks & _MASK
    b, c, d = (torch.zeros_like(a) + (word & _MASK) for word in counter)
    low, high = key & _MASK, key >> 32 & _MASK
    for _ in range(10):
        # 32 x 32 -> 64 bit products may wrap into the sign; shift and mask read them unsigned.
        left, right = a * _ROUND[0], c * _ROUND[1]
        a, b, c, d = (
            (right >> 32 & _MASK) ^ b ^ low,
            right & _MASK,
            (left >> 32 & _MASK) ^ d ^ high,
            left & _MASK,
        )
        low, high = low + _WEYL[0] & _MASK, high + _WEYL[1] & _MASK
    return torch.stack((a, b, c, d), dim=-1).view(-1)


def first_uniforms(keys: Tensor, counters: Tensor) -> Tensor:
    """The first number of `uniform`, `float64[n]`, for each of `keys[n]` and `counters[n, 3]`."""
    b, c, d = counters.unbind(-1)
    words = philox(keys, (b, c, d), torch.zeros_like(keys)).view(-1, 4)
    return (words[:, 0].to(torch.float64) + 0.5) * 2.0**-32


def uniform(key: int, counter: tuple[int, int, int], n: int, device: torch.device | str) -> Tensor:
    """`float64[n]` in the open interval (0, 1), midpoints of 2^32 equal cells: never 0, never 1."""
    blocks = torch.arange(-(-n // 4), device=device, dtype=torch.int64)
    words = philox(key, counter, blocks)[:n]
    return (words.to(torch.float64) + 0.5) * 2.0**-32
