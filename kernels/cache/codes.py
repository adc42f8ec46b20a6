"""Codes: numbers in 8, 4 or 2 bits, by the range of the group that they stand in."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.precision import wide


def encode(x: Tensor, bits: int, dim: int, clip: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """`x` as codes `uint8`, with a step and a lowest value for each group, which is all of `dim`.

    x is about code * step + low. step and low have the type of x, with `dim` kept at size 1; a code
    is that of the rounded step and low, so that those are all a reader needs. clip: what is beyond
    this share of the greatest and of the least number takes the last code.
    """
    wider = wide(x)
    low, high = wider.aminmax(dim=dim, keepdim=True)
    low, high, top = clip * low, clip * high, 2**bits - 1
    step, low = ((high - low) / top).to(x.dtype), low.to(x.dtype)
    unit = torch.where(step > 0, step, 1.0).to(wider)
    codes = ((wider - low.to(wider)) / unit + 0.5).floor().clamp(0, top)
    return codes.to(torch.uint8), step, low


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes `[..., n]` as m = n * bits / 8 bytes: byte j holds codes j, j + m, j + 2m ..., from
    its lowest bits on."""
    out, *above = codes.chunk(8 // bits, dim=-1)
    for i, part in enumerate(above, 1):
        out = out | part << i * bits
    return out


def unpack(packed: Tensor, bits: int) -> Tensor:
    """What was packed."""
    if bits == 8:
        return packed
    parts = [packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)]
    return torch.cat(parts, dim=-1)
