"""Weights in panels and the decoder layers that read them, against float64."""

from __future__ import annotations

import threading
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from helpers.numba_drawn import EXAMPLES, Drawn, judge
from helpers.numba_layers import linear, norm, stored

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.linear import decoder_block_numba, head_argmax_numba, skinny_linear_numba
from specdec.kernels.linear.decoder_block import (
    ACTIVATIONS,
    AttentionInputs,
    LayerOutput,
    Linear,
    Norm,
    attention_inputs,
    layer_output,
)
from specdec.kernels.linear.head_argmax import head_argmax
from specdec.kernels.linear.packed_weight import (
    PanelWeight,
    _to_columns,
    pack,
    pack_groups,
    quantise,
)
from specdec.kernels.linear.skinny_linear import skinny_linear

# -- weights in panels -----------------------------------------------------------------------------


# format and scales -> heights of the register tile it is compiled for
FORMATS = {
    "float32": (1, 2, 4, 8), "bfloat16": (1,), "float16": (4,),
    "int8/float16": (1, 8), "int8/float32": (2, 4),
    "int8affine/float16": (4,), "int8affine/float32": (8,),
    "int4affine/float16": (1, 2, 8), "int4affine/float32": (4,),
}  # fmt: skip
# By default a height of each format, so that all heights are among them: each is compiled anew.
TILES = [
    pytest.param(
        name, height, marks=[] if height == heights[i % len(heights)] else pytest.mark.slow
    )
    for i, (name, heights) in enumerate(FORMATS.items())
    for height in heights
]


@pytest.mark.parametrize(("name", "height"), TILES)
def test_skinny_linear(name, height):
    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        outputs = d.one_of(1, 15, 16, 17, 31, 32, 33, 64, 70)
        group = d.one_of(16, 32, 7, 40)  # the last two: a whole row, odd or even
        inputs = group if group in (7, 40) else group * d.one_of(1, 2, 5)
        rows = d.one_of(1, 2, 3, 4, 5, 7, 8, 9, 12, 40, 127, 128, 129)
        weight, dense = stored(d, name, outputs, inputs, group)
        kind = name.partition("/")[0]
        in_bytes = kind == "int4affine" and group % 8  # no whole words
        assert weight.format == ("int8affine" if in_bytes else kind)
        torch.testing.assert_close(weight.dense().double(), dense, rtol=1e-6, atol=1e-6)
        x, bias = d.normal(rows, inputs), d.one_of(None, d.normal(outputs))
        exact = functional.linear(x.double(), dense, None if bias is None else bias.double())
        with patch.object(skinny_linear_numba, "tile_height", lambda n: height):
            ours = skinny_linear.numba(x, weight, bias)
        # codes and minima are summed apart, and may cancel: the unit is of what is summed
        size = functional.linear(x.double().abs(), dense.abs()).max().item()
        judge(ours, skinny_linear.plain(x, weight, bias), exact, size)

    check()


@pytest.mark.parametrize("group", [96, 4128])  # 43 groups make no even stretches, one no two
@pytest.mark.parametrize(("name", "height"), TILES)
def test_inputs_of_several_stretches(name, height, group):
    """Panels longer than what is multiplied at a time where registers are few."""
    numbers = np.random.default_rng(group)
    codes = numbers.integers(*((0, 16) if name.startswith("int4") else (-128, 128)), (40, 4128))
    if name.startswith("int"):
        scale = numbers.uniform(0.01, 0.1, (40, 4128 // group)).astype(name.rpartition("/")[2])
        minimum = None if name.startswith("int8/") else (scale * 3).astype(scale.dtype)
        weight = pack_groups(codes, scale, minimum, 4 if name.startswith("int4") else 8)
    else:
        weight = pack(torch.from_numpy(codes / 9).to(getattr(torch, name)).float())
    x = torch.from_numpy(numbers.normal(size=(height, 4128))).float()
    dense = weight.dense().double()
    size = (x.double().abs() @ dense.abs().T).max().item()
    judge(skinny_linear(x, weight), x @ weight.dense().T, x.double() @ dense.T, size)


# By default those of the numbers that heads have, at all heights; codes are read as above.
HEADS = {("float32", 1), ("int8/float32", 2), ("float16", 4), ("int8/float16", 8)}


@pytest.mark.parametrize(
    ("name", "height"),
    [
        pytest.param(name, height, marks=() if (name, height) in HEADS else pytest.mark.slow)
        for name, heights in FORMATS.items()
        for height in heights
    ],
)
def test_head_argmax(name, height):
    """The very token that the kernel's own logits give: ties, infinities, no numbers, any width."""

    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        outputs = d.one_of(1, 15, 32, 33, 70, 512, 513, 1100)
        group = d.one_of(16, 7)
        inputs = group if group == 7 else group * d.one_of(1, 3)
        rows = d.one_of(1, 2, 4, 5, 9, 40, 127, 128)
        weight, dense = stored(d, name, outputs, inputs, group)
        x, bias = d.normal(rows, inputs), d.one_of(None, d.normal(outputs))
        if weight.format in ("float32", "bfloat16", "float16"):
            few = torch.randint(-1, 2, (outputs, inputs), generator=d.generator).float()
            few = d.one_of(few, few[torch.randint(0, outputs, (outputs,), generator=d.generator)])
            weight = stored_as(weight, d.one_of(dense.float(), few))
            x = d.one_of(x, x.round(), x.new_zeros(rows, inputs))
            bias = d.one_of(bias, None if bias is None else bias.round())
        x[d.one_of(0, rows - 1), d.one_of(0, inputs - 1)] = d.one_of(1.0, 0.0, torch.inf, torch.nan)
        if bias is not None:
            bias[d.one_of(0, outputs - 1)] = d.one_of(1.0, 9.0, torch.nan, -torch.inf)
        with (
            patch.object(skinny_linear_numba, "tile_height", lambda n: height),
            patch.object(head_argmax_numba, "tile_height", lambda n: height),
        ):
            ours, logits = head_argmax.numba(x, weight, bias), skinny_linear.numba(x, weight, bias)
        best = logits.argmax(-1)
        unknown = logits.isnan().any(-1) | (logits == -torch.inf).all(-1)
        assert torch.equal(ours, best.masked_fill(unknown, -1))
        # torch takes the first of several largest ones; should that change, so must the kernel
        if not unknown.any():
            largest = logits == logits.amax(-1, keepdim=True)
            assert not any(row[:i].any() for row, i in zip(largest, ours.tolist()))

    check()


def stored_as(weight: PanelWeight, dense: torch.Tensor) -> PanelWeight:
    """Other values in the format of `weight`, which holds them exactly."""
    panels = pack(dense).panels
    if type(panels) is not type(weight.panels):  # bfloat16 holds them too
        bits = {"float32": np.float32, "float16": np.float16}[weight.format]
        values = _to_columns(dense.numpy().astype(bits))
        panels = type(weight.panels)(values if bits is np.float32 else values.view(np.uint16))
    return PanelWeight(weight.outputs, weight.inputs, panels)


@EXAMPLES
@given(data=st.data())
def test_rows_of_a_weight(data):
    """Cut out of a joint projection, between panels and within them."""
    d = Drawn(data)
    name = d.one_of(*FORMATS)
    outputs = d.one_of(32, 70, 96)
    weight, dense = stored(d, name, outputs, 64, 32)
    start, stop = sorted((d.one_of(0, 5, 32, 64), d.one_of(32, 33, 64, outputs)))
    stop = min(outputs, max(stop, start + 1))
    start = min(start, stop - 1)
    part = weight.rows(start, stop)
    assert torch.equal(part.dense(), weight.dense()[start:stop]) and part.outputs == stop - start


@pytest.mark.parametrize("inputs", [7, 64, 80])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantise(bits, inputs):
    """Within half a step of every weight, a step being what the scale of its group says."""
    torch.manual_seed(0)
    w = torch.randn(37, inputs)
    w[3], w[4] = 0.0, 2.5
    groups = w.unflatten(1, (-1, 32 if inputs % 32 == 0 else inputs))
    spread = groups.abs().amax(2) * 2 if bits == 8 else groups.amax(2) - groups.amin(2)
    step = spread[..., None] / (254 if bits == 8 else 15)
    error = (quantise(w, bits).dense() - w).abs().unflatten(1, groups.shape[1:])
    assert (error <= 0.51 * step + 2e-3 * groups.abs().amax(2, keepdim=True)).all()


# -- decoder layers --------------------------------------------------------------------------------


def widened(part):
    """The same layer for plain PyTorch in float64."""
    if isinstance(part, Linear):
        dense = part.weight.dense().double()

        class Exact(PanelWeight):
            def dense(self):
                return dense

        weight = Exact(part.weight.outputs, part.weight.inputs, part.weight.panels)
        return Linear(weight, None if part.bias is None else part.bias.double())
    if isinstance(part, Norm):
        return Norm(part.weight.double(), part.eps)
    if isinstance(part, AttentionInputs | LayerOutput):
        return type(part)(**{name: widened(value) for name, value in vars(part).items()})
    return part


# one format, and three in one layer, at the heights of the register tile
LAYERS = [(("float32",) * 3, 1), (("float32",) * 3, 8),
          (("bfloat16", "int8/float16", "int4affine/float16"), 4),
          (("int4affine/float16",) * 3, 8)]  # fmt: skip


@pytest.mark.parametrize(("names", "height"), LAYERS)
def test_attention_inputs(names, height):
    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        batch, nodes = d.one_of((1, 1), (1, 3), (1, 8), (1, 9), (2, 1), (3, 5))
        hidden, dim = d.one_of(16, 48), d.one_of(8, 16, 80)
        kv_heads, group = d.one_of((1, 1), (2, 3), (1, 8))
        rotary = d.one_of(dim, dim // 2, 2)
        biases, head_norms = d.one_of(False, True), d.one_of(False, True)
        q, k, v = (
            linear(d, heads * dim, hidden, name, biases)
            for heads, name in zip((kv_heads * group, kv_heads, kv_heads), names)
        )
        layer = AttentionInputs(
            norm(d, hidden), q, k, v, dim, norm(d, dim, head_norms), norm(d, dim, head_norms)
        )  # fmt: skip
        x = d.normal(batch, nodes, hidden)
        cos, sin = (d.normal(d.one_of(1, batch), nodes, rotary) for _ in range(2))
        cos, sin = (cos, sin) if len(cos) == len(sin) else (cos[:1], sin[:1])
        exact = attention_inputs.plain(x.double(), widened(layer), cos.double(), sin.double())
        plain = attention_inputs.plain(x, layer, cos, sin)
        with patch.object(decoder_block_numba, "tile_height", lambda n: height):
            ours = attention_inputs.numba(x, layer, cos, sin)
        for one, other, want in zip(ours, plain, exact):
            judge(one, other, want)

    check()


@pytest.mark.parametrize(("names", "height"), LAYERS)
def test_layer_output(names, height):
    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        batch, nodes = d.one_of((1, 1), (1, 3), (1, 8), (1, 9), (2, 1), (3, 5))
        hidden, wide = d.one_of(16, 48), d.one_of(16, 80)
        heads, dim = d.one_of((1, 16), (3, 16), (2, 80))
        post, biases = d.one_of(False, True), d.one_of(False, True)
        layer = LayerOutput(
            linear(d, hidden, heads * dim, names[0], biases), norm(d, hidden),
            linear(d, wide, hidden, names[1], biases), linear(d, wide, hidden, names[1], biases),
            linear(d, hidden, wide, names[2], biases), d.one_of(*ACTIVATIONS),
            norm(d, hidden, post), norm(d, hidden, post),
        )  # fmt: skip
        x, o = d.normal(batch, nodes, hidden), d.normal(batch, heads, nodes, dim)
        exact = layer_output.plain(x.double(), o.double(), widened(layer))
        plain = layer_output.plain(x, o, layer)
        with patch.object(decoder_block_numba, "tile_height", lambda n: height):
            ours = layer_output.numba(x, o, layer)
        # codes and minima are summed apart, and may cancel before a norm
        largest = exact.abs().max().item()
        judge(ours, plain, exact, max(1.0, largest * (4 if "int4affine" in names[2] else 1)))

    check()


# -- threads ---------------------------------------------------------------------------------------


def test_more_threads_give_the_same_bits():
    """Panels are whole and so is each sum; two threads of Python may call at the same time."""
    torch.manual_seed(0)
    weight, x = pack(torch.randn(500, 64)), torch.randn(3, 64)
    alone = skinny_linear.numba(x, weight)
    results = []

    def work():
        torch.set_num_threads(2)
        results.extend(skinny_linear.numba(x, weight) for _ in range(50))

    workers = [threading.Thread(target=work) for _ in range(3)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(1)
    assert len(results) == 150 and all(torch.equal(alone, y) for y in results)
