"""Every Numba op against float64, by the error of plain PyTorch in float32.

A kernel is compiled once for each combination of types, so the tests name the combinations that
they use; what hypothesis varies (sizes, rows, masks) compiles nothing.
"""

from __future__ import annotations

import threading
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("numba", reason="numba is not installed")

from specdec.forward_pass import ForwardPass
from specdec.kernels import numba_decoder_block, numba_level_attention, numba_skinny_linear
from specdec.kernels.decoder_block import (
    ACTIVATIONS,
    AttentionInputs,
    LayerOutput,
    Linear,
    Norm,
    attention_inputs,
    layer_output,
)
from specdec.kernels.level_attention import level_attention
from specdec.kernels.panel_weight import PanelWeight, pack, pack_groups, quantise
from specdec.kernels.skinny_linear import skinny_linear
from specdec.kernels.tree_attention import unpack
from specdec.level_reads import full_reads
from specdec.store import KVStore, Level
from specdec.tree import ancestor_words
from specdec.view import FullView

UNIT = 4 * torch.finfo(torch.float32).eps
EXAMPLES = settings(max_examples=25)


def judge(ours, plain, exact, size=None):
    """At most twice the error of plain PyTorch, plus a rounding unit of the largest number."""
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    allowed = 2 * (plain.double() - exact).abs().max().item()
    allowed += UNIT * max(1.0, exact.abs().max().item() if size is None else size)
    error = (ours.double() - exact).abs().max().item()
    assert error <= allowed, f"{error:.2g} > {allowed:.2g}"


class Drawn:
    def __init__(self, data):
        self.draw = data.draw
        seed = self.draw(st.integers(0, 1 << 30))
        self.generator = torch.Generator().manual_seed(seed)
        self.numpy = np.random.default_rng(seed)

    def one_of(self, *values):
        return self.draw(st.sampled_from(values))

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)


# -- weights in panels -----------------------------------------------------------------------------


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


# format and scales -> heights of the register tile it is compiled for
FORMATS = {
    "float32": (1, 4, 8), "bfloat16": (1,), "float16": (4,),
    "int8/float16": (1, 8), "int8/float32": (4,),
    "int8affine/float16": (4,), "int8affine/float32": (8,),
    "int4affine/float16": (1, 8), "int4affine/float32": (4,),
}  # fmt: skip


@pytest.mark.parametrize(("name", "height"), [(n, h) for n, hs in FORMATS.items() for h in hs])
def test_skinny_linear(name, height):
    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        outputs = d.one_of(1, 15, 16, 17, 31, 32, 33, 64, 70)
        group = d.one_of(16, 32, 7, 40)  # the last two: a whole row, odd or even
        inputs = group if group in (7, 40) else group * d.one_of(1, 2, 5)
        rows = d.one_of(1, 2, 3, 4, 5, 7, 8, 9, 12, 31, 32, 33, 40)
        weight, dense = stored(d, name, outputs, inputs, group)
        assert weight.format == name.partition("/")[0]
        torch.testing.assert_close(weight.dense().double(), dense, rtol=1e-6, atol=1e-6)
        x, bias = d.normal(rows, inputs), d.one_of(None, d.normal(outputs))
        exact = functional.linear(x.double(), dense, None if bias is None else bias.double())
        with patch.object(numba_skinny_linear, "tile", lambda n: (0,) * height):
            ours = skinny_linear.numba(x, weight, bias)
        # codes and minima are summed apart, and may cancel: the unit is of what is summed
        size = functional.linear(x.double().abs(), dense.abs()).max().item()
        judge(ours, skinny_linear.plain(x, weight, bias), exact, size)

    check()


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


def linear(d: Drawn, outputs: int, inputs: int, name: str, bias: bool) -> Linear:
    weight, _ = stored(d, name, outputs, inputs, 16)
    return Linear(weight, d.normal(outputs) if bias else None)


def norm(d: Drawn, size: int, there: bool = True) -> Norm | None:
    return Norm(1 + d.normal(size) * 0.3, d.one_of(1e-5, 1e-2)) if there else None


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
          (("bfloat16", "int8/float16", "int4affine/float16"), 4)]  # fmt: skip


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
        with patch.object(numba_decoder_block, "tile", lambda n: (0,) * height):
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
        with patch.object(numba_decoder_block, "tile", lambda n: (0,) * height):
            ours = layer_output.numba(x, o, layer)
        judge(ours, plain, exact)

    check()


# -- attention over levels -------------------------------------------------------------------------

LENGTHS = (0, 1, 63, 64, 65, 127, 128, 129, 500)


class Case(NamedTuple):
    """Keys of a shared level and of each sequence's own, poisoned where nothing may be read."""

    q: torch.Tensor
    levels: list[tuple[torch.Tensor, torch.Tensor]]
    pass_: ForwardPass
    window: int | None
    scale: float
    softcap: float | None
    sinks: torch.Tensor | None

    def run(self, version):
        return getattr(level_attention, version)(
            self.q, self.levels, full_reads(self.pass_, self.window),
            scale=self.scale, softcap=self.softcap, sinks=self.sinks,
        )  # fmt: skip

    def dense(self, dtype):
        """One softmax over all keys of each sequence, in `dtype`."""
        store, out = self.pass_.store, []
        group = self.q.shape[1] // self.levels[0][0].shape[1]
        staged = self.pass_.staged_positions.shape[1]
        corner = unpack(self.pass_.anc, staged)
        for b, sequence in enumerate(self.pass_.sequences):
            keys, values, positions, place = [], [], [], 0
            for (k, v), level, rows in zip(self.levels, store.levels, store.row_maps):
                row = int(rows[sequence])
                end = int(level.length[row]) + (staged if level is store.levels[-1] else 0)
                keys.append(k[row, :, :end])
                values.append(v[row, :, :end])
                positions += range(place, place + end)
                place += int(level.length[row])
            here = self.pass_.positions[b]
            where = torch.tensor(positions)
            where[len(where) - staged :] = self.pass_.staged_positions[b]
            visible = torch.ones(len(here), len(where), dtype=torch.bool)
            visible[:, len(where) - staged :] = corner[b]
            if self.window is not None:
                visible &= here[:, None] - where < self.window
            k, v = (torch.cat(x, 1).to(dtype).repeat_interleave(group, 0) for x in (keys, values))
            scores = (self.q[b].to(dtype) * self.scale) @ k.mT
            if self.softcap is not None:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            scores = scores.masked_fill(~visible, torch.finfo(dtype).min)
            if self.sinks is not None:
                sinks = self.sinks.to(dtype)[:, None, None].expand(-1, len(here), 1)
                scores = torch.cat([scores, sinks], -1)
                v = functional.pad(v, (0, 0, 0, 1))
            out.append(scores.softmax(-1) @ v)
        return torch.stack(out)


def case(d: Drawn, dim: int, nodes: int) -> Case:
    batch, shared = d.one_of(1, 2, 3), d.one_of(1, 2)
    kv_heads, group = d.one_of((1, 1), (2, 3), (1, 8)) if nodes > 1 else d.one_of((1, 1), (2, 3))
    before = d.one_of(0, 0, 2, 62)  # nodes that earlier passes of the round have staged
    staged = before + nodes
    store = KVStore(1, shared + 1, 512)  # a row that nobody reads
    store.row_maps[0] = torch.tensor([d.one_of(*range(shared)) for _ in range(batch + 1)]).int()
    store.levels.append(Level(1, batch + 1, 512 + staged))
    store.row_maps.append(torch.randperm(batch + 1, generator=d.generator).int())
    levels = []
    for level in store.levels:
        level.length = torch.tensor([d.one_of(*LENGTHS) for _ in range(level.rows)]).int()
        k, v = (d.normal(level.rows, kv_heads, level.capacity, dim) for _ in range(2))
        for row, end in enumerate(level.length.tolist()):
            end += staged if level is store.levels[-1] else 0
            k[row, :, end:], v[row, :, end:] = d.one_of(torch.nan, 1e9), torch.nan
        levels.append((k, v))
    sequences = torch.randperm(batch + 1, generator=d.generator)[:batch].tolist()
    for (k, v), rows in zip(levels, store.row_maps):
        unread = list({*range(len(k))} - {int(rows[s]) for s in sequences})
        k[unread], v[unread] = d.one_of(torch.nan, 1e9), torch.nan
    parents = [
        [-1, *(d.numpy.integers(max(0, i - d.one_of(1, 200)), i).item() for i in range(1, staged))]
        for _ in range(batch)
    ]
    anc = ancestor_words(parents, staged)
    depth = unpack(anc, staged).sum(-1) - 1
    positions = torch.tensor([store.length(s) for s in sequences])[:, None] + depth
    pass_ = ForwardPass(
        store, FullView(), sequences, positions[:, before:], staged=before, anc=anc[:, before:],
        staged_positions=positions,
    )  # fmt: skip
    heads = kv_heads * group
    return Case(
        d.normal(batch, heads, nodes, dim), levels, pass_, d.one_of(None, 1, 5, 70, 140, 5000),
        dim**-0.5, d.one_of(None, None, 0.7), d.one_of(None, d.normal(heads)),
    )  # fmt: skip


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("dims", [(16, 48, 80), (64, 128, 256)])
def test_level_attention(dims, many):
    """Ragged and shared rows, empty levels, wide trees, windows; NaN wherever nothing is read."""

    @settings(EXAMPLES, max_examples=30)
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        one = case(d, d.one_of(*dims), d.one_of(2, 3, 9, 65, 130) if many else 1)
        exact, naive = one.dense(torch.float64), one.dense(torch.float32)
        with patch.object(numba_level_attention, "num_threads", lambda: d.one_of(1, 2, 3, 7)):
            judge(one.run("numba"), naive, exact)
        judge(one.run("plain"), naive, exact)

    check()


def test_a_query_that_sees_nothing_gives_zero():
    """No key, or none that its window shows; where there is a sink, its value is nothing too."""
    torch.manual_seed(0)
    store = KVStore(1, 1, 4)
    store.levels[0].length[0] = 4
    q, k = torch.randn(1, 2, 1, 16), torch.randn(1, 1, 8, 16)
    positions = torch.tensor([[4]])
    pass_ = ForwardPass(
        store, FullView(), [0], positions, anc=torch.zeros(1, 1, 1, dtype=torch.int64),
        staged_positions=positions,
    )  # fmt: skip
    for sinks in (None, torch.randn(2)):
        for version in ("numba", "plain"):
            one = Case(q, [(k, k)] * 2, pass_, 1, 0.25, None, sinks)
            assert torch.equal(one.run(version), torch.zeros_like(q))


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
