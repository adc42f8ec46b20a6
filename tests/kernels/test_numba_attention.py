"""Attention kernels on a CPU against one softmax over all keys, in float64."""

from __future__ import annotations

from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from helpers.numba_drawn import EXAMPLES, Drawn, judge

pytest.importorskip("numba", reason="numba is not installed")

from specdec.cache.level import Level
from specdec.cache.store import KVStore
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.forward.host_reads import full_reads
from specdec.kernels.attention import level_attention_numba
from specdec.kernels.attention.level_attention import Reads, level_attention
from specdec.kernels.attention.tree_attention import unpack
from specdec.kernels.cpu.jit import num_threads
from specdec.sampling.tree import ancestor_words

LENGTHS = (0, 1, 63, 64, 65, 127, 128, 129, 500)

num_threads()  # they must run before a test puts a number in their place


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
        with patch.object(level_attention_numba, "num_threads", lambda: d.one_of(1, 2, 3, 7)):
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


@EXAMPLES
@given(data=st.data())
def test_chosen_pages_are_read_where_they_lie(data):
    """Pages of two levels, other ones for each KV head, beside a span and a staged tree."""
    d = Drawn(data)
    size, kv_heads, group, dim = d.one_of(1, 3, 16), 2, 3, d.one_of(16, 48)
    nodes, ends, count = d.one_of(1, 5), (d.one_of(0, 70, 200), 131), d.one_of(1, 4, 40)
    q = d.normal(1, kv_heads * group, nodes, dim)
    levels = [tuple(d.normal(2, kv_heads, 220, dim) for _ in range(2)) for _ in ends]
    for (k, v), end in zip(levels, ends):
        k[1, :, end + nodes :], v[1, :, end + nodes :] = torch.nan, torch.nan
    pages = np.full((2, kv_heads, count), -1)
    for at, end in enumerate(ends):
        for head in range(kv_heads):
            some = d.numpy.permutation(-(-end // size))[: d.one_of(0, 1, count)]
            pages[at, head, d.numpy.permutation(count)[: len(some)]] = some[:count]
    table = np.array([[0, 1, 0, ends[0], 0, 0, 1, 1], [1, 1, ends[1], ends[1], nodes, 0, 1, 0],
                      [1, 1, 0, ends[1], 0, 0, 1, 2]])  # fmt: skip
    anc = ancestor_words([list(range(-1, nodes - 1))], nodes).numpy().view(np.uint64)
    reads = Reads(table, np.zeros(1, np.int64), anc, pages=pages, page_size=size)
    outs = []
    for head in range(kv_heads):
        keys, values = [], []
        for at, end in enumerate(ends):
            tokens = [
                t for p in pages[at, head] if p >= 0 for t in range(p * size, p * size + size)
            ]
            tokens = [t for t in tokens if t < end]
            keys.append(levels[at][0][1, head, tokens])
            values.append(levels[at][1][1, head, tokens])
        keys.append(levels[1][0][1, head, ends[1] : ends[1] + nodes])
        values.append(levels[1][1][1, head, ends[1] : ends[1] + nodes])
        k, v = torch.cat(keys), torch.cat(values)
        visible = torch.ones(nodes, len(k)).tril(len(k) - nodes).bool()
        for dtype in (torch.float64, torch.float32):
            heads = q[0, head * group : (head + 1) * group].to(dtype)
            scores = (heads * 0.25 @ k.to(dtype).mT).masked_fill(~visible, -torch.inf)
            outs.append(scores.softmax(-1) @ v.to(dtype))
    exact, naive = torch.cat(outs[::2])[None], torch.cat(outs[1::2])[None]
    for version in ("numba", "plain"):
        with patch.object(level_attention_numba, "num_threads", lambda: d.one_of(1, 2, 3)):
            ours = getattr(level_attention, version)(q, levels, reads, scale=0.25)
        judge(ours, naive, exact)
