"""Blocks of a GGUF as stored, times activations in 8 bits: against gguf's own values in float64."""

from __future__ import annotations

from unittest.mock import patch

import gguf
import numpy as np
import pytest
import torch

from helpers.stored_gguf import blocks

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.linear import skinny_linear_numba
from specdec.kernels.linear.head_argmax import head_argmax
from specdec.kernels.linear.packed_weight import PanelWeight, pack_stored
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.kernels.linear.stored.formats import FORMATS, KINDS, StoredFormat
from specdec.kernels.linear.stored.rounding import codes_and_scales, rounded_values
from specdec.kernels.linear.weight_rows import weight_rows

KIND = pytest.mark.parametrize("form", FORMATS, ids=KINDS)
SLOW = pytest.mark.slow
HEIGHTS = (1, 2, 4, 8)
# By default a height of each format: each is compiled anew.
TILES = [
    pytest.param(form, height, id=f"{form.name}-{height}",
                 marks=[] if height == HEIGHTS[i % 4] else pytest.mark.slow)
    for i, form in enumerate(FORMATS)
    for height in HEIGHTS
]  # fmt: skip


def drawn(form: StoredFormat, outputs: int, inputs: int = 768) -> tuple[PanelWeight, np.ndarray]:
    """Random blocks, and what gguf says they are."""
    data = blocks(form.name, outputs, inputs, np.random.default_rng(outputs))
    return pack_stored(form.name, data), gguf.dequantize(data, gguf.GGMLQuantizationType[form.name])


def inputs_of(rows: int, inputs: int = 768) -> torch.Tensor:
    """Rows of different sizes, with a block of zeros and one of tiny numbers."""
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    x *= torch.logspace(-3, 3, rows)[:, None]
    x[0, 256:512] = 0
    x[-1, 512:768] *= 1e-36
    return x


@KIND
def test_layout(form):
    """A block in a file is as large as gguf says, and hardly larger in memory."""
    per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form.name]]
    assert (form.inputs, form.block.itemsize) == (per_block, size)
    assert size * 16 <= form.record.itemsize <= size * 16 * 1.03


@KIND
@pytest.mark.parametrize("outputs", [1, 37, 64])
def test_values(form, outputs):
    """The file's numbers, to the bit, as a whole and row by row."""
    weight, want = drawn(form, outputs)
    assert weight.format == form.name.lower() and weight.is_stored
    assert torch.equal(weight.dense(), torch.from_numpy(want))
    rows = np.arange(outputs)[:: max(1, outputs // 5)]
    assert np.array_equal(weight.dense_rows(rows).numpy(), want[rows])
    for looked_up in (weight_rows.numba, weight_rows.plain):
        out = torch.full((len(rows), 768), torch.nan)
        looked_up(out, weight, torch.from_numpy(rows))
        assert np.array_equal(out.numpy(), want[rows])
    if outputs == 64:
        assert torch.equal(weight.rows(32, 64).dense(), torch.from_numpy(want[32:]))


def test_rounding_is_off_by_half_a_step_at_most():
    x = inputs_of(7)
    for block in (32, 256):
        codes, scale = codes_and_scales(x, block)
        assert codes.abs().max() == 127
        parts = x.unflatten(-1, (-1, block))
        top = parts.abs().amax(-1, keepdim=True)
        error = (rounded_values(x, block).unflatten(-1, (-1, block)) - parts).abs()
        assert (error <= top / 254 * (1 + 1e-5) + 2.0**-99).all()
        assert torch.equal(scale == 0, top[..., 0] < 2.0**-100)


def test_what_is_no_number_makes_none():
    x = torch.ones(2, 64)
    x[0, 3], x[1, 40] = torch.inf, torch.nan
    _, scale = codes_and_scales(x, 32)
    assert torch.equal(scale.isnan(), torch.tensor([[True, False], [False, True]]))
    weight, _ = drawn(FORMATS[KINDS["Q8_0"]], 32, 64)
    for product in (skinny_linear.numba, skinny_linear.plain):
        assert product(x, weight).isnan().all()


@pytest.mark.parametrize(("form", "height"), TILES)
def test_products(form, height):
    """Those of the rounded activations, in float64, to float32's rounding."""
    weight, want = drawn(form, 50)
    dense = torch.from_numpy(want).double()
    for rows in (1, 3, 8, 21):
        x = inputs_of(rows)
        bias = torch.linspace(-1, 1, 50)
        exact = rounded_values(x, form.inputs).double() @ dense.T
        unit = rounded_values(x, form.inputs).double().abs() @ dense.abs().T
        with patch.object(skinny_linear_numba, "tile_height", lambda n: height):
            ours = skinny_linear.numba(x, weight)
            biased = skinny_linear.numba(x, weight, bias)
        assert ((ours - exact).abs() <= 4e-7 * unit + 1e-30).all()
        assert ((skinny_linear.plain(x, weight) - exact).abs() <= 4e-6 * unit + 1e-30).all()
        assert torch.equal(biased, ours + bias)


@KIND
def test_the_error_of_rounding_is_bounded(form):
    """By half a step of each block times its weights, against the file's values."""
    weight, want = drawn(form, 40)
    x = inputs_of(5)
    exact = x.double() @ torch.from_numpy(want).double().T
    top = x.unflatten(-1, (-1, form.inputs)).abs().amax(-1).double()
    sums = torch.from_numpy(want).double().abs().unflatten(-1, (-1, form.inputs)).sum(-1)
    bound = top @ sums.T / 254
    with patch.object(skinny_linear_numba, "tile_height", lambda n: HEIGHTS[KINDS[form.name] % 4]):
        ours = skinny_linear(x, weight)
    assert ((ours - exact).abs() <= bound * 1.001 + 1e-30).all()


@pytest.mark.parametrize("form", [
    pytest.param(form, id=form.name, marks=[] if form.name in ("Q4_K", "Q6_K", "Q8_0") else SLOW)
    for form in FORMATS
])  # fmt: skip
def test_a_row_has_the_same_bits_in_any_company(form):
    """At any height of tiles, number of rows and number of threads."""
    weight, _ = drawn(form, 70)
    x = inputs_of(40)
    alone = torch.cat([skinny_linear(row[None], weight) for row in x])
    for rows in (1, 2, 3, 5, 8, 13, 40):
        assert torch.equal(skinny_linear(x[:rows], weight), alone[:rows])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert torch.equal(skinny_linear(x, weight), alone)
    finally:
        torch.set_num_threads(before)
    many = x.repeat(4, 1)  # as many as would be dequantised in another format
    assert torch.equal(skinny_linear(many, weight), alone.repeat(4, 1))


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0"])
def test_head_argmax_is_that_of_its_logits(name):
    weight, _ = drawn(FORMATS[KINDS[name]], 1100)
    for rows in (1, 5, 130):
        x = inputs_of(rows)
        assert torch.equal(head_argmax(x, weight), skinny_linear(x, weight).argmax(-1))
