"""A run of decoder layers in one call: the bits of its layers called one by one."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.numba_drawn import EXAMPLES, Drawn

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.attention.level_attention import NO_BOUNDS, Reads, level_attention
from specdec.kernels.cache.stage_kv import stage_kv
from specdec.kernels.linear import decoder_block_numba, decoder_run_numba
from specdec.kernels.linear.decoder_block import (
    ACTIVATIONS,
    AttentionInputs,
    LayerOutput,
    attention_inputs,
    layer_output,
)
from specdec.kernels.linear.decoder_run import PendingSelection, Run, Staging, alike, decoder_run
from specdec.kernels.selection.select_pages import select_by_index

from helpers.numba_layers import linear, norm

LAYERS = [(("float32",) * 3, 1), (("bfloat16", "int8/float16", "int4affine/float16"), 4),
          (("int4affine/float16",) * 3, 8)]  # fmt: skip
CAPACITY = 200


class Same(Drawn):
    """The same answer each time a question is asked of a layer's parts: layers alike."""

    def __init__(self, data):
        super().__init__(data)
        self.answers, self.place = [], 0

    def one_of(self, *values):
        if self.place == len(self.answers):
            self.answers.append(super().one_of(*range(len(values))))
        self.place += 1
        return values[self.answers[self.place - 1]]


def block(d, names, shape, biases, head_norms, post):
    d.place = 0
    hidden, heads, kv_heads, dim, wide = shape
    q, k, v = (
        linear(d, count * dim, hidden, name, biases)
        for count, name in zip((heads, kv_heads, kv_heads), names)
    )
    inputs = AttentionInputs(
        norm(d, hidden), q, k, v, dim, norm(d, dim, head_norms), norm(d, dim, head_norms)
    )
    output = LayerOutput(
        linear(d, hidden, heads * dim, names[0], biases), norm(d, hidden),
        linear(d, wide, hidden, names[1], biases), linear(d, wide, hidden, names[1], biases),
        linear(d, hidden, wide, names[2], biases), d.one_of(*ACTIVATIONS),
        norm(d, hidden, post), norm(d, hidden, post),
    )  # fmt: skip
    return inputs, output


@pytest.mark.parametrize(("names", "height"), LAYERS)
def test_bits_of_the_layers(names, height):
    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        batch, nodes = d.one_of((1, 1), (1, 3), (1, 9), (2, 1), (3, 5))
        kv_heads, group = d.one_of((1, 1), (2, 3))
        shape = d.one_of(16, 48), kv_heads * group, kv_heads, d.one_of(16, 32), d.one_of(16, 80)
        how = d.one_of(False, True), d.one_of(False, True), d.one_of(False, True)
        same = Same(data)
        blocks = [block(same, names, shape, *how) for _ in range(d.one_of(1, 3))]
        assert all(alike(blocks[0], other) for other in blocks)
        # a level that all sequences share, and one of their own, NaN where nothing may be read
        shared, at = d.one_of(0, 1, 130), d.one_of(0, 2)
        length = torch.tensor([d.one_of(0, 5, 140) for _ in range(batch)], dtype=torch.int32)
        rows = torch.randperm(batch, generator=d.generator).int()
        dim = shape[3]

        def level(count, lengths):
            k, v = (d.normal(count, kv_heads, CAPACITY, dim) for _ in range(2))
            for row, end in enumerate(lengths):
                k[row, :, end:], v[row, :, end:] = torch.nan, torch.nan
            return k, v

        ends = [int(n) + at for n in length]
        levels = [[level(1, [shared]), level(batch, ends)] for _ in blocks]
        table = [[1, int(row), 0, int(length[row]), at + nodes, b, 1, 0]
                 for b, row in enumerate(rows)]  # fmt: skip
        members, pages = list(range(batch)), [np.zeros((0, 0, 0), np.int64)] * len(blocks)
        pending = [None] * len(blocks)
        if shared and batch == 1 and d.one_of(False, True):  # pages, other ones in each layer
            table.append([0, 0, 0, shared, 0, 0, 1, 1])
            pages = [d.numpy.integers(-1, -(-shared // 4), (1, kv_heads, 3)) for _ in blocks]
            pages = [np.where(np.arange(3) == 0, 0, x) for x in pages]
            if shared > 12 and d.one_of(False, True):  # chosen on the way, but for the last layer
                signed, how = d.one_of(False, True), (d.one_of("max", "mean"), 1, False, 1, 1)
                for i in range(max(1, len(blocks) - 1)):
                    room = d.normal(kv_heads, 32 + i, dim * (2 if signed else 1))
                    pending[i] = PendingSelection(room[:, : shared // 4], pages[i], signed, *how)
        elif shared:
            table.append([0, 0, 0, shared, 0, batch, batch, 0])
            members += list(range(batch))
        anc = np.zeros((batch, nodes, 1), np.uint64)
        for n in range(nodes):
            anc[:, n] = (1 << (at + n + 1)) - 1
        reads = [
            Reads(np.array(table, np.int64), np.array(members, np.int64), anc, NO_BOUNDS, p, 4)
            for p in pages
        ]
        softcap = d.one_of(None, 20.0)
        x = d.normal(batch, nodes, shape[0])
        cos, sin = (d.normal(d.one_of(1, batch), nodes, d.one_of(dim, 2)) for _ in range(2))
        cos, sin = (cos, sin) if cos.shape == sin.shape else (cos, cos)
        staging = Staging(length, rows, at)
        kept = [[(k.clone(), v.clone()) for k, v in pairs] for pairs in levels]
        with (
            patch.object(decoder_block_numba, "tile_height", lambda n: height),
            patch.object(decoder_run_numba, "tile_height", lambda n: height),
        ):
            ours = decoder_run.numba(
                x,
                Run(tuple(blocks)),
                cos,
                sin,
                levels,
                staging,
                reads,
                pending,
                scale=0.3,
                softcap=softcap,
            )
            y = x
            chosen = [read.pages.copy() for read in reads]
            for (inputs, output), pairs, read, choice in zip(blocks, kept, reads, pending):
                q, k, v = attention_inputs.numba(y, inputs, cos, sin)
                stage_kv.numba(*pairs[-1], k, v, length, rows, at=at)
                if choice is not None:
                    signed, votes, pool, all_heads, first, last = choice.settings
                    best = select_by_index.numba(
                        q.reshape(kv_heads, -1, dim), choice.index, scale=0.3, signed=signed,
                        votes=votes, pool=pool, all_heads=all_heads, count=3, first=first,
                        last=last,
                    )  # fmt: skip
                    assert np.array_equal(best.numpy(), read.pages[0])
                o = level_attention.numba(q, pairs, read, scale=0.3, softcap=softcap)
                y = layer_output.numba(y, o, output)
        assert torch.equal(ours, y) and not ours.isnan().any()
        assert all(np.array_equal(x, read.pages) for x, read in zip(chosen, reads))
        for one, other in zip(levels, kept):
            for pair in zip(one, other):
                for a, b in zip(*pair):
                    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        plain = decoder_run.plain(
            x,
            Run(tuple(blocks)),
            cos,
            sin,
            kept,
            staging,
            reads,
            pending,
            scale=0.3,
            softcap=softcap,
        )
        # layers make rounding errors larger; how large they are is proven for each op alone
        assert (ours - plain).abs().max() <= 0.05 * plain.abs().max()

    check()


def test_layers_that_are_not_alike():
    """Sizes, formats, groups, settings: what a kernel takes from the first layer for all."""
    torch.manual_seed(0)

    class Fixed:
        numpy = np.random.default_rng(0)

        def one_of(self, *values):
            return values[self.choice % len(values)]

        def normal(self, *shape):
            return torch.randn(shape)

    def made(choice=0, names=("float32",) * 3, shape=(32, 2, 1, 16, 48), **how):
        d = Fixed()
        d.choice = choice
        how = {"biases": False, "head_norms": False, "post": False, **how}
        return block(d, names, shape, **how)

    first = made()
    assert alike(first, made())
    others = [
        made(1), made(2), made(shape=(32, 2, 1, 16, 64)), made(shape=(32, 2, 2, 16, 48)),
        made(names=("float32", "bfloat16", "float32")), made(biases=True), made(head_norms=True),
        made(post=True),
    ]  # fmt: skip
    assert not any(alike(first, other) for other in others)
