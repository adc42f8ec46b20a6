"""Every Triton kernel of attention and of indices against float64, by the error of plain PyTorch.

`TRITON_INTERPRET=1 pytest` collects it; `test_triton.py` runs it in a process of its own.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.kernels.attention import merge_triton, prefix_attention_triton
from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.members import members
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.tree_attention import tree_attention, unpack
from specdec.kernels.cache.stage_kv import commit_path, stage_kv
from specdec.kernels.gpu import tiles
from specdec.kernels.selection.chunk_scores import score_means, update_means
from specdec.kernels.selection.label_scores import score_labels, update_labels
from specdec.kernels.selection.page_bounds import score_bounds, update_bounds
from specdec.kernels.selection.page_mass import page_mass
from specdec.sampling.tree import ancestor_words

from helpers.dense import close, dense
from helpers.triton_drawn import DEVICE, EXAMPLES, LENGTHS, PAGE, Drawn, best_of, near


@settings(EXAMPLES, max_examples=2 * EXAMPLES.max_examples)
@given(data=st.data())
def test_prefix_attention(data):
    d = Drawn(data)
    rows = d.one_of(1, 2, 5)
    q = d.normal(d.batch, d.heads, d.nodes, d.dim)
    k, v, length = d.level(rows)
    row_map = d.row_map(rows)
    end = length[row_map.long()].long()
    first = None
    if d.one_of(False, True):  # a sliding window, some of it before the first key or behind the end
        most = d.one_of(3, 45)
        behind = [[d.draw(st.integers(-1, most)) for _ in range(d.nodes)] for _ in range(d.batch)]
        first = end[:, None] - torch.tensor(behind, device=DEVICE)
    bias = None
    if d.one_of(False, True):
        bias = d.normal(rows, d.kv_heads, k.shape[2]).float()
        bias[:, :, :: d.one_of(2, 5)] = -torch.inf
    if d.one_of(False, True):
        ours = prefix_attention.triton(
            q, k, v, length, row_map, scale=d.scale, softcap=d.softcap, first=first, bias=bias
        )
    else:  # the same in several splits, which contexts as short as these would not get
        packed, per_tile, groups = prefix_attention_triton.packing(row_map, rows, d.nodes * d.group)
        ours = prefix_attention_triton.launch(
            q, k, v, length, row_map, packed, groups, per_tile, first, d.scale, d.softcap,
            tiles.Tile(16, d.one_of(8, 16), 4, 2), d.one_of(1, 2, 3, 17), d.one_of(1, 16),
            bias,
        )  # fmt: skip
    slots = torch.arange(k.shape[2], device=DEVICE)
    visible = (slots < end[:, None, None]).expand(-1, d.nodes, -1)
    if first is not None:
        visible = visible & (slots >= first[..., None])
    added = None if bias is None else bias[row_map.long()]
    d.compare(ours, q, k[row_map.long()], v[row_map.long()], visible, added)


@EXAMPLES
@given(data=st.data())
def test_tree_attention(data):
    d = Drawn(data)
    before = d.one_of(0, 1, 3, 70)  # nodes staged by earlier passes: words beyond the first
    staged = before + d.nodes
    parents = [
        [-1, *(d.draw(st.integers(0, i - 1)) for i in range(1, staged))] for _ in range(d.batch)
    ]
    q = d.normal(d.batch, d.heads, d.nodes, d.dim)
    k = d.normal(d.batch, staged, d.kv_heads, d.dim).transpose(1, 2)
    v = d.normal(d.batch, d.kv_heads, staged, d.value_dim)
    anc = ancestor_words(parents, staged).to(DEVICE)
    depth = unpack(anc, staged).sum(-1) + 7
    anc, visible = anc[:, before:], unpack(anc, staged)[:, before:]
    window = d.one_of(None, 1, 2, 4)
    if window is not None:
        visible = visible & (depth[:, before:, None] - depth[:, None, :] < window)
    ours = tree_attention.triton(
        q, k, v, anc, scale=d.scale, softcap=d.softcap, window=window,
        q_positions=depth[:, before:], k_positions=depth,
    )  # fmt: skip
    d.compare(ours, q, k, v, visible)


@pytest.mark.parametrize("nodes", [65, 256])
def test_tree_attention_over_many_words(nodes):
    torch.manual_seed(0)
    parents = [[-1, *((i - 1) // 2 if i % 7 else i - 1 for i in range(1, nodes))]]
    q, k, v = (torch.randn(1, heads, nodes, 16).to(DEVICE) for heads in (9, 3, 3))
    anc = ancestor_words(parents, nodes).to(DEVICE)
    o, lse = tree_attention.triton(q, k, v, anc, scale=0.25)
    want_o, want_lse = tree_attention.plain(q, k, v, anc, scale=0.25)
    torch.testing.assert_close(o, want_o, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse, want_lse, rtol=1e-5, atol=1e-6)


@EXAMPLES
@given(data=st.data())
def test_gather_attention(data):
    d = Drawn(data)
    rows = d.one_of(1, 2, 5)
    q = d.normal(d.batch, d.heads, d.nodes, d.dim)
    k, v, length = d.level(rows)
    row_map = d.row_map(rows)
    page = d.one_of(8, 5)
    count = k.shape[2] // page
    chosen = torch.rand(d.batch, d.kv_heads, count, generator=d.generator) < d.one_of(0.0, 0.4, 1.0)
    index = [[head.nonzero()[:, 0].tolist() for head in sequence] for sequence in chosen]
    width = d.one_of(count, count + 3)
    pages = torch.tensor(
        [[head + [-1] * (width - len(head)) for head in sequence] for sequence in index]
    ).to(DEVICE, torch.int32)
    visible = chosen.repeat_interleave(page, dim=2).repeat_interleave(d.group, dim=1)
    slots = torch.arange(k.shape[2], device=DEVICE)
    end = length[row_map.long()][:, None, None]
    visible = (visible.to(DEVICE) & (slots < end))[:, :, None].expand(-1, -1, d.nodes, -1)
    unread = ~visible[:, :: d.group, 0]
    k, v = k[row_map.long()], v[row_map.long()]  # rows of their own, NaN where nothing may be read
    k, v = (x.masked_fill(unread[..., None], torch.nan) for x in (k, v))
    each = torch.arange(d.batch, dtype=torch.int32, device=DEVICE)
    for op in (gather_attention.triton, gather_attention.plain):
        ours = op(
            q, k, v, pages, end[:, 0, 0], each,
            page_size=page, scale=d.scale, softcap=d.softcap,
        )  # fmt: skip
        d.compare(ours, q, k, v, visible)


@EXAMPLES
@given(data=st.data())
def test_merge(data):
    d = Drawn(data)
    shape = (d.batch, d.heads, min(d.nodes, 2))
    partials = []
    for _ in range(d.one_of(1, 2, 3, 20)):  # 20: more than merge_splits has in flight
        lse = torch.randn(shape, generator=d.generator) * 3
        empty = torch.rand(shape, generator=d.generator) < d.one_of(0.0, 0.5, 1.0)
        lse = lse.masked_fill(empty, -torch.inf)
        o = torch.randn(*shape, d.value_dim, generator=d.generator)
        partials.append((o.masked_fill(empty[..., None], 0.0).to(DEVICE), lse.to(DEVICE)))
    sink = torch.randn(d.heads, generator=d.generator).to(DEVICE)[None, :, None].expand(shape)
    partials.append((torch.zeros(*shape, d.value_dim, device=DEVICE), sink))
    if d.one_of(False, True):
        partials.pop()
    exact, exact_lse = merge.plain([(o.double(), lse.double()) for o, lse in partials])
    plain, _ = merge.plain(partials)
    error = (plain.double() - exact).abs().max().item()
    for o, lse in (
        merge.triton(partials),
        merge_triton.merge_splits(
            torch.stack([o for o, _ in partials]), torch.stack([lse for _, lse in partials])
        ),
    ):
        close(o, exact, error, torch.float32)
        torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=1e-6)


@EXAMPLES
@given(data=st.data())
def test_members(data):
    """Every sequence stands once, beside others of its row only, whatever row_map holds."""
    draw = data.draw
    batch, rows = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    per_tile = draw(st.integers(1, 6))
    places = [draw(st.integers(0, rows - 1)) for _ in range(batch)]
    row_map = torch.tensor(places, dtype=torch.int32, device=DEVICE)
    plain = members.plain(row_map, rows=rows, per_tile=per_tile)
    assert torch.equal(members.triton(row_map, rows=rows, per_tile=per_tile), plain)
    assert sorted(b for b in plain.flatten().tolist() if b >= 0) == list(range(batch))
    for tile in plain.tolist():
        assert len({places[b] for b in tile if b >= 0}) <= 1
        assert tile == sorted(tile, key=lambda b: b if b >= 0 else batch)


@EXAMPLES
@given(data=st.data())
def test_page_bounds_chunk_scores_and_label_scores(data):
    """Built in two steps as a text grows, then scored; a bound is above every score of its page."""
    d = Drawn(data)
    rows, page = d.one_of(1, 2, 5), d.one_of(PAGE, 8, 5)
    k, _, length = d.level(rows)
    pages = k.shape[2] // page
    before = torch.minimum(length, torch.tensor(d.one_of(*LENGTHS), device=DEVICE))
    row_map = d.row_map(rows)
    q = d.normal(d.batch, d.heads, d.nodes, d.dim)
    channels = torch.rand(rows, d.kv_heads, d.dim, generator=d.generator).argsort(-1)[..., :6]
    channels = channels.to(DEVICE, torch.int32)
    shape = (rows, d.kv_heads, pages)
    indexes = []
    for version in ("plain", "triton"):
        bounds, means = k.new_full((*shape, 2, d.dim), torch.nan), k.new_full((*shape, d.dim), 7.0)
        labels = k.new_full((rows, d.kv_heads, k.shape[2], 6), torch.nan)
        for since, to, most in ((torch.zeros_like(length), before, pages), (before, length, pages)):
            steps = dict(page_size=page, pages=most)
            getattr(update_bounds, version)(bounds, k, since, to, **steps)
            getattr(update_means, version)(means, k, since, to, **steps)
            getattr(update_labels, version)(labels, k, channels, since, to, tokens=k.shape[2])
        indexes.append((bounds, means, labels))
    (bounds, means, labels), ours = indexes
    assert torch.equal(bounds.nan_to_num(9.0), ours[0].nan_to_num(9.0))
    torch.testing.assert_close(means, ours[1], rtol=2 * torch.finfo(d.dtype).eps, atol=1e-6)
    assert torch.equal(labels.nan_to_num(9.0), ours[2].nan_to_num(9.0))

    def queries(dtype):
        return q.to(dtype).unflatten(1, (d.kv_heads, d.group))  # [B, Hkv, G, N, D]

    def by_sequence(index, dtype):
        return index[row_map.long()].to(dtype).nan_to_num(0.0)

    def bound(dtype):
        low, high = by_sequence(bounds, dtype)[:, :, None].unbind(4)
        up, down = queries(dtype).clamp_min(0), queries(dtype).clamp_max(0)
        return best_of(up @ high.mT + down @ low.mT, length, row_map, page)

    def mean(dtype):
        scores = queries(dtype) @ by_sequence(means, dtype)[:, :, None].mT
        return best_of(scores, length, row_map, page)

    def label(dtype):
        places = channels[row_map.long(), :, None, None].long()
        places = places.expand(-1, -1, d.group, d.nodes, -1)
        scores = queries(dtype).gather(-1, places) @ by_sequence(labels, dtype)[:, :, None].mT
        return best_of(scores, length, row_map, 1)

    for version in ("plain", "triton"):
        scored = getattr(score_bounds, version)(q, bounds, length, row_map, page_size=page)
        near(scored, bound(d.dtype), bound(torch.float64), d.dtype)
        got = getattr(score_means, version)(q, means, length, row_map, page_size=page)
        near(got, mean(d.dtype), mean(torch.float64), d.dtype)
        got = getattr(score_labels, version)(q, labels, channels, length, row_map)
        near(got, label(d.dtype), label(torch.float64), d.dtype)
    exact = (queries(torch.float64) @ by_sequence(k, torch.float64)[:, :, None].mT).amax((2, 3))
    highest = exact[:, :, : pages * page].unflatten(-1, (pages, page)).amax(-1)
    full = scored.isfinite()
    assert (scored[full] >= highest[full] - 1e-4).all()


@EXAMPLES
@given(data=st.data())
def test_page_mass(data):
    d = Drawn(data)
    rows, page, votes = d.one_of(1, 2, 5), d.one_of(PAGE, 1, 8, 5, 64), d.one_of("max", "mean")
    k, _, length = d.level(rows)
    row_map = d.row_map(rows)
    q = d.normal(d.batch, d.heads, d.nodes, d.dim)
    slots = torch.arange(k.shape[2], device=DEVICE)
    visible = slots < length[row_map.long()][:, None, None]
    keys = k[row_map.long()].nan_to_num(0.0)
    _, lse = dense(q, keys, keys, visible, d.scale, d.softcap)

    def mass(dtype):
        scores = (q.to(dtype).unflatten(1, (d.kv_heads, d.group)) * d.scale) @ keys.to(dtype)[
            :, :, None
        ].mT
        if d.softcap is not None:
            scores = d.softcap * torch.tanh(scores / d.softcap)
        share = (scores - lse.to(dtype).unflatten(1, (d.kv_heads, d.group))[..., None]).exp()
        share = share.nan_to_num(0.0).masked_fill(~visible[:, None, None], 0.0)
        share = torch.nn.functional.pad(share, (0, -k.shape[2] % page))
        shares = share.unflatten(-1, (-1, page)).sum(-1)
        return shares.mean((2, 3)) if votes == "mean" else shares.amax((2, 3))

    for op in (page_mass.triton, page_mass.plain):
        got = op(
            q, k, lse.float(), length, row_map, page_size=page, scale=d.scale, softcap=d.softcap,
            votes=votes,
        )  # fmt: skip
        near(got, mass(d.dtype), mass(torch.float64), d.dtype)


@EXAMPLES
@given(data=st.data())
def test_stage_kv_and_commit_path(data):
    """The same bits as plain PyTorch, everywhere in the buffers."""
    d = Drawn(data)
    rows, count, at = d.batch + d.one_of(0, 2), d.one_of(1, 4, 17), d.one_of(0, 3)
    k, v, length = d.level(rows, capacity=LENGTHS[-1] + at + count)
    mine = torch.randperm(rows, generator=d.generator)[: d.batch].to(DEVICE, torch.int32)
    new_k = d.normal(d.batch, count, d.kv_heads, d.dim).transpose(1, 2)
    new_v = d.normal(d.batch, d.kv_heads, count, d.value_dim)
    slots = list(range(at + count))
    kept = [sorted(d.draw(st.sets(st.sampled_from(slots)))) for _ in range(d.batch)]
    path = torch.tensor([row + [-1] * (len(slots) - len(row)) for row in kept])
    path = path.to(DEVICE, torch.int32)
    results = []
    for version in ("plain", "triton"):
        keys, values = k.clone(), v.clone()
        getattr(stage_kv, version)(keys, values, new_k, new_v, length, mine, at=at)
        getattr(commit_path, version)(keys, values, path, length, mine)
        results.append((keys.nan_to_num(9.0), values.nan_to_num(9.0)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], k.nan_to_num(9.0))
