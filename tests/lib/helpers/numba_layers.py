"""Weights, linear layers and norms drawn for the tests of Numba kernels."""

from __future__ import annotations

import numpy as np
import torch

from specdec.kernels.linear.decoder_block import Linear, Norm
from specdec.kernels.linear.packed_weight import pack, pack_groups

from helpers.numba_drawn import Drawn


def stored(d: Drawn, name: str, outputs: int, inputs: int, group: int):
    """A weight in a storage format, and what it stands for in float64."""
    kind, _, scales = name.partition("/")
    if not scales:
        dense = d.normal(outputs, inputs).to(getattr(torch, kind)).float()
        return pack(dense), dense.double()
    bits, groups = 4 if kind == "int4affine" else 8, inputs // group
    codes = d.numpy.integers(*((0, 16) if bits == 4 else (-128, 128)), (outputs, inputs))
    scale = d.numpy.uniform(0.01, 0.1, (outputs, groups)).astype(scales)
    minimum = None if kind == "int8" else d.numpy.normal(size=(outputs, groups)).astype(scales)
    weight = pack_groups(codes, scale, minimum, bits)
    values = codes.reshape(outputs, groups, group) * scale.astype(np.float64)[..., None]
    if minimum is not None:
        values += minimum.astype(np.float64)[..., None]
    return weight, torch.from_numpy(values).flatten(1)


def linear(d: Drawn, outputs: int, inputs: int, name: str, bias: bool) -> Linear:
    group = d.one_of(16, inputs)  # weights that share an input need not share it as prepared
    weight, _ = stored(d, name, outputs, inputs, group)
    return Linear(weight, d.normal(outputs) if bias else None)


def norm(d: Drawn, size: int, there: bool = True) -> Norm | None:
    return Norm(1 + d.normal(size) * 0.3, d.one_of(1e-5, 1e-2)) if there else None
