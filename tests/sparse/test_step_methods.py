"""Methods that gather statistics: what they select in a model, against NumPy over the attention
maps that transformers gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.sparse.importances.key_tokens import KeyTokens
from specdec.sparse.importances.ledger import Ledger
from specdec.sparse.methods.critic import CRITIC
from specdec.sparse.methods.d2o import D2O
from specdec.sparse.methods.h2o import H2O
from specdec.sparse.methods.keyformer import Keyformer
from specdec.sparse.methods.kvmerger import KVMerger
from specdec.sparse.methods.lazy_eviction import LazyEviction
from specdec.sparse.methods.scissorhands import Scissorhands
from specdec.sparse.triggers.every_tokens import EveryTokens

from helpers.passes import make_row
from helpers.selected import TEXT, Run, S, best


@pytest.fixture(scope="module", params=["llama", "llama-mha"])
def run(request):
    return Run(request.param)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reads_the_best(run, method, score):
    """That each head of each layer reads the best tokens by `score(layer)[Hkv, S]`."""
    found = run.select(method)
    for n in run.layers:
        want = [best(x, method.budget, method.sink, method.recent) for x in score(n)]
        assert run.read(found[n]) == want


def reads_as_much(run, method, score):
    """Likewise, where it does not matter which of tokens with the same score are read."""
    found, last = run.select(method), S - method.recent
    for n in run.layers:
        want = score(n)
        for h, read in enumerate(run.read(found[n])):
            assert len(read) == method.budget and set(range(last, S)) <= read
            inner = sorted(want[h, t] for t in read if t < last)
            np.testing.assert_allclose(inner, np.sort(want[h, :last])[-len(inner) :], atol=1e-5)


def test_h2o_reads_the_most_attended(run):
    reads_the_best(run, H2O(budget=40, recent=8), lambda n: run.maps[n].sum(axis=(1, 2)))


def test_scissorhands_reads_what_was_ignored_least(run):
    def score(n):
        mean, at = run.maps[n].mean(1), np.arange(S)
        ignored = (mean < 1 / (at + 1)[:, None]) & (at <= at[:, None])
        return -ignored.sum(1).astype(float)

    reads_as_much(run, Scissorhands(budget=40), score)


def test_keyformer_reads_by_attention_under_noise(run):
    """The logarithm of attention is its logits, but for what a softmax takes away."""

    def score(n):
        heads, group = run.maps[n].shape[:2]
        noise = KeyTokens().noise(n, heads * group, S, torch.device("cpu")).numpy()
        with np.errstate(divide="ignore"):
            logits = np.log(run.maps[n]) + noise.reshape(heads, group, 1, S)
        return softmax(logits).sum(axis=(1, 2))

    reads_the_best(run, Keyformer(budget=40, recent=8), score)


def test_lazy_eviction_leaves_out_what_is_overdue(run):
    def score(n):
        used = run.maps[n].max(1) >= 1e-4
        out = np.zeros((run.heads, S), np.float32)
        for h in range(run.heads):
            for t in range(S):
                at = np.flatnonzero(used[h, :, t])
                uses = np.concatenate([[t], at[at >= t]])
                gap, age = np.float32(np.diff(uses).max(initial=0)), np.float32(S - uses[-1])
                out[h, t] = 2 / (1 + np.exp(1 + min(age / (gap + np.float32(1e-5)), 80)))
                out[h, t] += 2 / (1 + np.exp(gap - 1)) if gap else 0
        return out

    reads_as_much(run, LazyEviction(budget=60, recent=20), score)


def test_lazy_eviction_chooses_when_a_window_is_written(run):
    view = LazyEviction(budget=60, recent=20).view(run.target)
    assert view.trigger == EveryTokens(20)
    assert LazyEviction(refresh="pass").view(run.target).refresh == "pass"
    assert LazyEviction(refresh=3).view(run.target).refresh == 3


def test_critic_reads_by_attention_and_entropy(run):
    def scaled(x):
        low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
        return (x - low) / (high - low)

    def score(n):
        a = run.maps[n]
        entropy = -(a * np.log(np.where(a > 0, a, 1))).sum(axis=(1, 2))
        return 0.25 * scaled(a.sum(axis=(1, 2))) + 0.75 * scaled(entropy)

    reads_the_best(run, CRITIC(budget=40, recent=8, attention_weight=0.25), score)


def test_d2o_merges_what_is_like_what_it_keeps(run):
    found = run.select(D2O(budget=40, recent=8))
    sums = [run.maps[n].sum(axis=(1, 2)) for n in run.layers]
    weight = np.array([np.exp(-np.var(x.sum(0) / x.sum())) for x in sums])
    counts = np.floor(len(weight) * 40 * weight / weight.sum() + 1e-9).astype(int)
    for n in run.layers:
        entries = found[n].entries
        assert found[n].pages.shape[1] == 0 and entries.k.shape[1] == counts[n]
        assert (entries.log_weight == 0).all()
        for h in range(run.heads):
            kept = sorted(best(sums[n][h], counts[n], 4, 8))
            left = sorted(set(range(S)) - set(kept))
            k, v = run.k[n][h], run.v[n][h]
            unit = k / np.linalg.norm(k, axis=1, keepdims=True)
            like = unit[left] @ unit[kept].T
            u, to = like.max(1), like.argmax(1)
            share = np.zeros((len(kept), S))
            share[range(len(kept)), kept] = np.e
            for i, t in enumerate(left):
                if u[i] >= u.mean():
                    share[to[i], t] = np.exp(u[i])
            share /= share.sum(1, keepdims=True)
            np.testing.assert_allclose(entries.k[h], share @ k, atol=1e-6)
            np.testing.assert_allclose(entries.v[h], share @ v, atol=1e-6)


@pytest.mark.parametrize("name", ["h2o", "scissorhands", "lazy-eviction", "critic", "d2o"])
def test_choosing_leaves_statistics_as_they_are(run, name):
    """After rounds of choosing, and rejections, they are those of reading the text at once."""
    method = {
        "h2o": H2O, "scissorhands": Scissorhands, "lazy-eviction": LazyEviction, "critic": CRITIC,
        "d2o": D2O,
    }[name](budget=30, sink=2, recent=6)  # fmt: skip
    stream = Engine(run.target.model).stream(
        TEXT[:60], drafter=name, budget=30, sink=2, recent=6, max_new_tokens=30, eos_token_id=[],
        num_draft_tokens=4, temperature=1.0, seed=5,
    )  # fmt: skip
    while not next(stream).finish_reason:  # afterwards nothing is left of the text
        pass
    stats = stream.outputs[0].stats
    assert 0 < stats.num_accepted_draft_tokens < stats.num_draft_tokens
    view, store = method.view(run.target), stream.model.store
    text = stream.rows[0].tokens[: store.length(0)]
    recorder = QueryRecorder.of(view.needs)
    again = CachedModel(run.target, FullView(), [make_row(0, [*text, 0])], recorder=recorder)
    kept, fresh = (
        Ledger.of(x, view.importance.step).accounts[0].layers for x in (store, again.store)
    )
    for n in run.layers:
        for a, b in zip(kept[n], fresh[n], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_d2o_leaves_the_first_layers_and_the_last_alone():
    kinds = ["full_attention"] * 6
    assert D2O().dense.of(kinds) == (0, 1, 5)
    assert D2O().dense.of(kinds[:4]) == ()


def test_kvmerger_leaves_the_first_and_the_last_two_layers_alone():
    kinds = ["full_attention"] * 8
    assert KVMerger().dense.of(kinds) == (0, 1, 6, 7)
    assert KVMerger().dense.of(kinds[:7]) == ()


def test_what_d2o_cannot_share_is_refused(run):
    with pytest.raises(InvalidArgument, match="layers cannot share a choice"):
        Engine(run.target.model).generate([1, 2], drafter="d2o", anchors=(0,), max_new_tokens=2)
