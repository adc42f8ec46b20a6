"""Views that read a copy which a codec keeps: exact where it loses nothing, and in step with the
store."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.cache.store import KVStore
from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.registry import VIEWS
from specdec.sampling.tree import TokenTree
from specdec.sparse.codecs.base import Place
from specdec.sparse.codecs.codec import TwoSides
from specdec.sparse.codecs.coded_copy import CodedCopy, CopyKind
from specdec.sparse.codecs.coded_read import CodedRead
from specdec.sparse.codecs.coded_view import CodedView
from specdec.sparse.codecs.grouped import CHANNELS, TOKENS, Grouped
from specdec.sparse.codecs.mixed_view import MixedView
from specdec.sparse.codecs.plain import Plain
from specdec.sparse.codecs.projected import Projected
from specdec.sparse.codecs.scaled import Scaled
from specdec.sparse.codecs.unturned import Unturned
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.view import SparseView

from helpers import models
from helpers.passes import make_row

TOKENS_ = [(7 * i * i + 3) % 40 for i in range(90)]


def logits(target, view, base, row):
    draft = CachedModel(target, view, [row], base=base)
    return draft.forward([row], [TokenTree.root(row.tokens[-1])])[0], draft


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "gemma3", "llama-mha", "qwen3"])
def test_a_codec_that_loses_nothing_gives_full_attention(name):
    """Of one layer or of pairs, keys turned back or not, with rank and bits to spare."""
    target = Engine(models.build(name, head_dim=8)).target
    row = make_row(0, TOKENS_)
    base = CachedModel(target, FullView(), [row], recorder=QueryRecorder(window=32))
    want = logits(target, FullView(), base, row)[0]
    rotation, full = KeyRotation.of(target, "x"), target.full_layers
    pairs = {layer: tuple(full[i - i % 2 : i - i % 2 + 2]) for i, layer in enumerate(full)}
    alone = {layer: (layer,) for layer in full}
    for keys, values, groups, asks in (
        (Plain(), Plain(), alone, False),
        (Unturned(Projected(1.0), rotation), Projected(1.0), pairs, False),
        (Scaled(Plain(), True), Scaled(Plain(), False), alone, True),
    ):
        view = CodedView("x", TwoSides(keys, values, 8), groups, recent=8, asks_queries=asks)
        got, draft = logits(target, view, base, row)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    coarse = TwoSides(Grouped(2, 8, TOKENS), Grouped(2, 8, CHANNELS), 8)
    got, draft = logits(target, CodedView("y", coarse, alone, recent=8), base, row)
    assert (got - want).abs().max() > 1e-4
    read = draft.reads(0)["y"]
    assert all(b < full for b, full in zip(read.bytes, read.full_bytes, strict=True))
    exact = CodedView("z", coarse, alone, recent=8, sink=88)
    torch.testing.assert_close(logits(target, exact, base, row)[0], want, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("share", [None, 0.5])
def test_mixed_precision_reads_what_is_selected_as_it_is(share):
    """Against one softmax over both: selected tokens as they are, others of the low copy."""
    target = Engine(models.build("llama", head_dim=8)).target
    row = make_row(0, TOKENS_)
    base = CachedModel(target, FullView(), [row], recorder=QueryRecorder(window=32))
    alone = {layer: (layer,) for layer in target.full_layers}
    want = logits(target, FullView(), base, row)[0]
    policy = SparseView("s", ExactMass(1), budget=24, sink=2, recent=4, queries="prompt",
                        refresh="prompt", votes="mean", share=share)  # fmt: skip
    coarse = TwoSides(Grouped(2, 8, TOKENS), Grouped(2, 8, CHANNELS), 8)
    low = CodedView("low", coarse, alone, recent=4)
    got, draft = logits(target, MixedView("m", policy, low), base, row)
    errors = [(got - want).abs().max()]
    all_low = logits(target, low, base, row)[0]
    errors.append((all_low - want).abs().max())
    assert 0 < errors[0] < errors[1]
    read = draft.reads(0)["m"]
    assert all(b < full for b, full in zip(read.bytes, read.full_bytes, strict=True))
    exact = CodedView("plain", TwoSides(Plain(), Plain(), 8), alone, recent=4)
    for mixed in (MixedView("a", policy, exact), MixedView("b", policy, exact, exact)):
        torch.testing.assert_close(logits(target, mixed, base, row)[0], want, rtol=0, atol=1e-5)
    swapped, _ = logits(target, MixedView("c", policy, exact, low), base, row)
    assert (swapped - want).abs().max() > 1e-6  # what is selected comes out of `high`
    k, v = (x[0, :, :89] for x in (base.store.levels[0].k[0], base.store.levels[0].v[0]))
    level, chosen = base.store.levels[0], torch.tensor([[3, 50, -1], [0, 39, 7]])
    copy = CodedCopy.of(level, CopyKind(coarse, (0,), 4)).row(0)
    read = CodedRead(copy, level, 0, 0, 40, chosen=chosen)
    call = SimpleNamespace(layer=0, k=k[None], q=k[None])
    decoded = read.copy.decode(0, 2, 0)
    for got, plain, coded in zip(read.read(call), (k, v), decoded):
        for head, mine in enumerate(([3], [0, 39, 7])):
            for token in range(40):
                side = plain if token in mine else coded
                assert torch.equal(got[0, head, token], side[head, token])


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("kivi", {"kv_bits": 2, "recent": 8}, {"kv_bits": 8, "recent": 8}),
        ("kivi", {"recent": 8}, {"recent": 40}),
        ("kivi", {"kv_group": 32, "recent": 8}, {"kv_group": 64, "recent": 8}),
        ("gear", {"kv_bits": 2, "recent": 8}, {"kv_bits": 4, "recent": 8}),
        (
            "xkv",
            {"key_share": 0.25, "group_layers": 1, "recent": 8},
            {"key_share": 0.75, "group_layers": 1, "recent": 8},
        ),
        ("lizard", {"sink": 1, "recent": 8}, {"sink": 4, "recent": 8}),
        ("lizard", {"features": 2, "recent": 8}, {"features": 9, "recent": 8}),
    ],
)
def test_views_of_one_method_with_other_options_do_not_share_what_they_keep(name, one, other):
    """Beside one store each reads what it would read alone, whoever was there first."""
    target = Engine(models.build("llama", head_dim=32)).target
    row = make_row(0, TOKENS_)

    def read(options, base):
        method = VIEWS[name].method(options)
        return logits(target, method.resolved(target, None).view(target), base, row)[0]

    def alone(options):
        return read(options, CachedModel(target, FullView(), [row], recorder=recorder()))

    def recorder():
        return QueryRecorder(window=32)

    base = CachedModel(target, FullView(), [row], recorder=recorder())
    want = [alone(one), alone(other)]
    assert not torch.equal(*want)
    for options, theirs in ((one, want[0]), (other, want[1]), (one, want[0])):
        torch.testing.assert_close(read(options, base), theirs, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_copy_follows_the_store(data):
    """Commits, rollbacks and forks: what is covered is what the keys as they stand would give."""
    store, size = KVStore(num_layers=2, sequences=2, capacity=64), 8
    codec = TwoSides(Grouped(2, 8, TOKENS), Grouped(4, 4, CHANNELS), size)
    recent = data.draw(st.sampled_from([0, 5]))
    for _ in range(data.draw(st.integers(1, 9))):
        sequence = data.draw(st.integers(0, store.sequences - 1))
        action = data.draw(st.sampled_from(["commit", "commit", "crop", "fork"]))
        if action == "commit":
            staged = data.draw(st.integers(1, 20))
            for layer in range(2):
                k = torch.randn(1, 2, staged, 4)
                store.stage(layer, [sequence], k, k, 0)
            if store.length(sequence) + staged < 44:
                store.commit(sequence, range(staged))
        elif action == "crop":
            least, most = store.offset(sequence), store.length(sequence)
            store.crop(sequence, data.draw(st.integers(least, most)))
        elif len(store.levels) < 3:
            store.stack([s // 2 for s in range(2 * store.sequences)], 64)
        for level in store.levels:
            if level.k[0] is None or not data.draw(st.booleans()):
                continue
            copy = CodedCopy.of(level, CopyKind(codec, (0, 1), recent))
            for row in range(level.rows):
                mine = copy.row(row)
                mine.update(level, row, recent, 0, None, None, torch.device("cpu"))
                length = int(level.length[row])
                assert length - recent - size < mine.tokens <= length or not mine.tokens
                if not mine.tokens:
                    continue
                assert mine.nbytes > 0
                at = Place((0, 1), 2, torch.arange(mine.tokens).view(-1, size))
                k, v = (
                    torch.cat([x[i][row, :, : mine.tokens] for i in range(2)]).unflatten(
                        1, (-1, size)
                    )
                    for x in (level.k, level.v)
                )
                coded = codec.encode(k, v, at, (None, None))
                want = codec.decode(coded, at, (None, None))
                for layer in range(2):
                    for got, whole in zip(mine.decode(layer, 2, 0), want, strict=True):
                        assert torch.equal(got, whole.flatten(1, 2))
        assert all(
            isinstance(x, CodedCopy) for level in store.levels for x in level.beside.values()
        )
