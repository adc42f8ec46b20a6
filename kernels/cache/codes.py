"""Codes: numbers in 8 or 4 bits, by the range of the group that they stand in."""

from __future__ import annotations

import torch
from torch import Tensor


def encode(x: Tensor, bits: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """`x` as codes `uint8`, with a step and a lowest value for each group, which is all of `dim`.

    x is about code * step + low. step and low have the type of x, with `dim` kept at size 1; a code
    is that of the rounded step and low, so that those are all a reader needs.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    low, high = wide.aminmax(dim=dim, keepdim=True)
    top = 2**bits - 1
    step, low = ((high - low) / top).to(x.dtype), low.to(x.dtype)
    unit = torch.where(step > 0, step, 1.0).to(wide)
    codes = ((wide - low.to(wide)) / unit + 0.5).floor().clamp(0, top)
    return codes.to(torch.uint8), step, low


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes `[..., n]` as bytes: n of them, or n / 2, where byte j holds codes j and j + n / 2."""
    if bits == 8:
        return codes
    low, high = codes.chunk(2, dim=-1)
    return low | high << 4


def unpack(packed: Tensor, bits: int) -> Tensor:
    """What was packed."""
    return packed if bits == 8 else torch.cat([packed & 15, packed >> 4], dim=-1)
