"""GGUF blocks say what the reference says, and so do the panels made of them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from specdec.kernels.linear.packed_weight import pack_groups
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.kernels.linear.weight_rows import weight_rows
from specdec.loading.gguf.blocks import TYPES, decode

from helpers.stored_gguf import blocks

pytestmark = pytest.mark.fast

FORMATS = {
    **dict.fromkeys(["Q4_0", "Q4_1", "Q4_K", "Q2_K", "Q3_K"], "int4affine"),
    **dict.fromkeys(["Q5_1", "Q5_K"], "int8affine"),
    **dict.fromkeys(["Q8_0", "Q5_0", "Q6_K", "IQ4_NL", "IQ4_XS"], "int8"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_say_what_the_reference_says(kind: str) -> None:
    data = blocks(kind, 5, 768, np.random.default_rng(0))
    codes = decode(kind, data)
    want = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(codes.values(), want)
    assert codes.codes.min() >= (0 if codes.bits == 4 else -128)
    assert codes.codes.max() <= (15 if codes.bits == 4 else 127)


def test_a_large_scale_of_q4_0_keeps_its_minimum() -> None:
    """-8 times a large float16 is none any more."""
    data = blocks("Q4_0", 1, 64, np.random.default_rng(0))
    data[0, :2] = np.array([9000.0], np.float16).view(np.uint8)
    want = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(decode("Q4_0", data).values(), want)


@pytest.mark.parametrize("kind", TYPES)
def test_panels_multiply_as_the_values_do(kind: str) -> None:
    """The same bits in fewer bytes, whatever the type, and products that agree."""
    codes = decode(kind, blocks(kind, 50, 256, np.random.default_rng(1)))
    weight = torch.from_numpy(codes.values())
    packed = pack_groups(codes.codes, codes.scale, codes.minimum, codes.bits)
    assert packed.format == FORMATS[kind]
    assert packed.nbytes * 50 < 0.4 * 64 * weight.nbytes  # 64: outputs up to whole panels
    assert torch.equal(packed.dense(), weight)
    rows = torch.tensor([49, 0, 17, 17])
    assert torch.equal(weight_rows(torch.empty(4, 256), packed, rows), weight[rows])
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ weight.double().T
    ours = (skinny_linear(x, packed) - exact).abs().max()
    theirs = (x @ weight.T - exact).abs().max()
    assert ours <= 4 * theirs + 1e-7 * exact.abs().max()
