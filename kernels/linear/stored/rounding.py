"""Activations rounded to 8 bits by blocks, in plain PyTorch: what it means."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MAX_CODE = 127
SMALLEST = np.float32(2.0**-100)  # a block whose numbers are all smaller counts as zeros


def codes_and_scales(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """`x[..., inputs]`, float32, as codes `int8[..., blocks, block]` and scales `[..., blocks]`.

    A code is x over the scale, rounded to the nearest, of two to the even one; the scale is the
    block's largest magnitude over 127, so that none is off by more than half of it. Where a number
    of a block is infinite or none, its scale is none either.
    """
    parts = x.unflatten(-1, (-1, block))
    top = parts.abs().amax(-1)
    is_usable = (top >= float(SMALLEST)) & top.isfinite()
    inverse = torch.where(is_usable, MAX_CODE / top, 0.0)
    codes = torch.nan_to_num(parts * inverse[..., None]).round().to(torch.int8)
    scale = torch.where(top < float(SMALLEST), 0.0, top * np.float32(1 / MAX_CODE).item())
    return codes, torch.where(top.isfinite(), scale, torch.nan)


def rounded_values(x: Tensor, block: int) -> Tensor:
    """What products with stored blocks multiply in place of x."""
    codes, scale = codes_and_scales(x, block)
    return (codes.float() * scale[..., None]).flatten(-2)
