"""Methods that choose groups: what they select in a model, against NumPy over its keys, values and
queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.cache.store import KVStore
from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.forward.layout import segments_of
from specdec.forward.prompt_queries import PromptQueries
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.view_state import ViewState
from specdec.sampling.tree import TokenTree
from specdec.sparse.groupings.nested_chunks import NestedChunks
from specdec.sparse.maths.sentences import sentence_ends
from specdec.sparse.methods.leoam import LeoAM
from specdec.sparse.methods.louiskv import LouisKV
from specdec.sparse.methods.retrieval import Retrieval
from specdec.sparse.methods.sentencekv import SentenceKV
from specdec.sparse.selecting_groups import grouped
from specdec.sparse.text import Text, lengths
from specdec.sparse.triggers.query_turn import QueryTurn

from helpers import hostile, models
from helpers.passes import make_row, take_up
from helpers.selected import TEXT, Run, S

MARKS = frozenset({3, 10})


@dataclass(eq=False)
class Spy:
    """A grouping that notes what its layers were asked."""

    grouping: object
    asked: dict

    def __getattr__(self, name):
        return getattr(self.grouping, name)

    def choose(self, asked):
        self.asked[asked.text.layer] = asked
        return self.grouping.choose(asked)


class Selected(Run):
    """Also what a method selects, and the queries `[Hkv, G, D]` that it does it by."""

    def chosen(self, method):
        asked = {}
        view = method.view(self.target)
        view = replace(view, groups=Spy(view.groups, asked))
        found = self.select(type("", (), {"view": lambda _, target: view})())
        q = {n: x.q[:, 0].unflatten(0, (self.heads, -1)).numpy() for n, x in asked.items()}
        return found, q


@pytest.fixture(scope="module", params=["llama", "llama-mha"])
def run(request):
    return Selected(request.param)


def filled(groups, score, count, first, last):
    """The first and last tokens of S, and then groups by score; as a set."""
    out = [*range(first), *range(S - last, S)]
    for u in np.argsort(-np.asarray(score), kind="stable"):
        out += [t for t in groups[u] if t not in out]
    return set(out[:count])


def cut(tokens, marks, longest=64):
    groups = [[]]
    for t, token in enumerate(tokens):
        groups[-1].append(t)
        if token in marks or len(groups[-1]) == longest:
            groups.append([])
    return [g for g in groups if g]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def lloyd(x, spherical):
    """Clusters of 16 rows on average, as lists, by four steps from evenly spaced rows."""
    count = -(-len(x) // 16)
    mean = x[[c * len(x) // count for c in range(count)]].copy()
    for _ in range(4):
        if spherical:
            near = x @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
        else:
            near = -((x[:, None] - mean[None]) ** 2).sum(-1)
        of = near.argmax(1)
        for c in range(count):
            if (of == c).any():
                mean[c] = x[of == c].mean(0)
    return [np.flatnonzero(of == c).tolist() for c in range(count) if (of == c).any()]


def test_sentencekv_reads_the_best_sentences(run):
    method = SentenceKV(budget=50, sink=3, recent=5, marks=MARKS, prefilter=0)
    found, q = run.chosen(method)
    groups = cut(TEXT[:S], MARKS)
    assert len({len(g) for g in groups}) > 2
    for n in run.layers:
        for h, read in enumerate(run.read(found[n])):
            score = [q[n][h].mean(0) @ run.k[n][h, g].mean(0) for g in groups]
            assert read == filled(groups, score, 50, 3, 5)


def test_sentencekv_filters_the_prompt_by_its_last_queries(run):
    """As released: max-pooled votes of 32 queries; means and reads of the survivors alone."""
    method = SentenceKV(budget=30, sink=2, recent=4, marks=MARKS, prefilter=2.0)
    found, q = run.chosen(method)
    for n in run.layers:
        votes = run.maps[n][:, :, -32:].sum(axis=2).mean(axis=1)
        wide = np.pad(votes, ((0, 0), (3, 3)), constant_values=-1)
        score = np.stack([wide[:, i : i + S] for i in range(7)]).max(0)
        score[:, -32:] = np.inf
        for h, read in enumerate(run.read(found[n])):
            # pooled votes are often the same: of those topk says which survive
            stays = set(torch.from_numpy(score[h]).topk(60).indices.tolist())
            groups = [[t for t in g if t in stays] for g in cut(TEXT[:S], MARKS)]
            groups = [g for g in groups if g]
            rank = [q[n][h].mean(0) @ run.k[n][h, g].mean(0) for g in groups]
            assert read == filled(groups, rank, 30, 2, 4)


def test_sentencekv_asks_with_all_of_the_running_sentence(run):
    """Tokens that were written since the last end, and the pass's own."""
    method = SentenceKV(budget=50, sink=3, recent=5, marks=MARKS, prefilter=0)
    view = method.view(run.target)
    asked = {}
    view = replace(view, groups=Spy(view.groups, asked))
    row = make_row(0, TEXT)
    base = CachedModel(run.target, FullView(), [row], recorder=QueryRecorder.of(view.needs))
    draft = CachedModel(run.target, view, [row], base=base)
    for token in (5, 10, 7, 8):  # 10 ends a sentence
        base.forward([row], [TokenTree.root(row.tokens[-1])])
        take_up(row, TokenTree.root(row.tokens[-1]), 0, token)
    draft.forward([row], [TokenTree.root(row.tokens[-1])])
    again = CachedModel(
        run.target, FullView(), [make_row(0, [*row.tokens, 0])], recorder=QueryRecorder(400)
    )
    text, found = row.tokens[:-1], draft.state.of(0).selections
    groups = [*cut(TEXT[:S], MARKS), *(
        [t + S for t in g] for g in cut(text[S:], MARKS) if text[S:][g[-1]] in MARKS
    )]  # fmt: skip
    closed = groups[-1][-1] + 1
    assert len(text) - closed == 1  # 7; its end, 8, is what is asked for
    for n in run.layers:
        every = PromptQueries.of(again.store).window[0][n].q
        q = torch.cat([every[:, closed:-1], asked[n].q], dim=1)
        q = q.unflatten(0, (run.heads, -1)).numpy()
        k = again.store.levels[0].k[n][0].numpy()
        for h in range(run.heads):
            score = [q[h].mean((0, 1)) @ k[h, g].mean(0) for g in groups]
            want = [*range(3), *range(closed - 4, closed)]
            for u in np.argsort(-np.array(score)):
                want += [t for t in groups[u] if t not in want]
            read = set(found[n].pages[h].tolist()) - {-1}
            assert read == set(want[: 50 - (len(text) - closed)])


def test_louiskv_reads_the_best_clusters(run):
    found, q = run.chosen(LouisKV(budget=50, sink=3, recent=5, turn=0.3))
    for n in run.layers:
        for h, read in enumerate(run.read(found[n])):
            groups = lloyd(run.k[n][h], spherical=False)
            means = np.stack([run.k[n][h, g].mean(0) for g in groups])
            score = softmax(q[n][h] @ means.T / np.sqrt(8)).mean(0)
            assert read == filled(groups, score, 50, 3, 5)


def test_retrieval_reads_the_best_clusters_and_estimates_the_next(run):
    found, q = run.chosen(Retrieval(budget=50, sink=3, recent=5, estimated_share=0.5))
    for n in run.layers:
        for h, read in enumerate(run.read(found[n])):
            k, v = run.k[n][h], run.v[n][h]
            groups = lloyd(k - k.mean(0), spherical=True)
            means = np.stack([k[g].mean(0) for g in groups])
            score = softmax(q[n][h] @ means.T / np.sqrt(8)).max(0)
            assert read == filled(groups, score, 50, 3, 5)
            left = [[t for t in g if t not in read] for g in groups]
            count = round(0.5 * 8)  # of all clusters, empty ones included
            want = [u for u in np.argsort(-score) if left[u]][:count]
            entries = found[n].entries
            for i, u in enumerate(want):
                np.testing.assert_allclose(entries.k[h, i], means[u], atol=1e-6)
                np.testing.assert_allclose(entries.v[h, i], v[left[u]].mean(0), atol=1e-6)
                assert entries.log_weight[h, i] == pytest.approx(np.log(len(left[u])))
            assert torch.isinf(entries.log_weight[h, len(want) :]).all()


def test_leoam_reads_the_chunks_of_the_greatest_bounds(run):
    """Chunks of 8 for heads that look at few things, 64 for those that look everywhere."""
    sizes = set()
    found, q = run.chosen(LeoAM(budget=90, sink=3, recent=60))
    for n in run.layers:
        assert found[n].covered == (S // 64 * 64,)
        for h, read in enumerate(run.read(found[n])):

            def bound(start, size):
                k = run.k[n][h, start : start + size]
                return np.maximum(q[n][h] * k.min(0), q[n][h] * k.max(0)).sum(-1).max()

            top = softmax(np.array([bound(0, 64)]) / np.sqrt(8))
            assert top == 1  # one large chunk is no spread at all
            small = [list(range(s, s + 8)) for s in range(0, 64, 8)]
            order = np.argsort([-bound(g[0], 8) for g in small])
            want = [*range(3), *range(64 - (60 - (S - 64)), 64)]
            for u in order:
                want += [t for t in small[u] if t not in want]
            assert read == set(want[: 90 - (S - 64)])
            sizes.add(len(read))
    assert sizes == {90 - (S - 64)}


def asked_of(k, v, q, count):
    """What a grouping is asked by one query head of a text in two levels, of 64 tokens and more."""
    store = KVStore(1, 1, 64)
    store.stage(0, [0], k[None, :, :64], v[None, :, :64], 0)
    store.commit(0, range(64))
    store.stack([0], len(k[0]) - 64)
    store.stage(0, [0], k[None, :, 64:], v[None, :, 64:], 0)
    store.commit(0, range(len(k[0]) - 64))
    text = Text(store, 0, 0, tuple(lengths(store, 0)), k.device, 1.0)
    (x,) = segments_of(store, [0], [0], ViewState(), 0)
    return store, text, lambda grouping: replace(grouped(grouping, text, x, q), count=count)


def test_leoam_reads_large_chunks_where_all_are_alike():
    """Over two levels; a head that looks at one place finds it in the small ones."""
    k = torch.ones(1, 256, 4, dtype=torch.float64)
    k[0, 128:192] += 0.01  # hardly better: read as a whole
    q = torch.ones(1, 1, 4, dtype=torch.float64)
    _, _, of = asked_of(k, k, q, 60)
    assert NestedChunks().choose(of(NestedChunks())).tokens.tolist() == [list(range(128, 188))]
    k[0, 80:88] += 9
    k[0, 200:216] += 8
    _, _, of = asked_of(k, k, q, 20)
    found = NestedChunks().choose(of(NestedChunks())).tokens[0].tolist()
    assert found[:8] == list(range(80, 88)) and set(found) < {*range(80, 88), *range(200, 216)}


def test_values_are_read_out_of_all_levels():
    v = torch.arange(2 * 100 * 3, dtype=torch.float64).view(2, 100, 3)
    _, text, _ = asked_of(v, v, v[:, :1], 0)
    tokens = torch.tensor([[0, 63, 64, 99], [99, 5, 70, 64]])
    want = torch.stack([v[h, tokens[h]] for h in range(2)])
    assert torch.equal(text.values(tokens), want)


def test_louiskv_turns_where_its_calibration_says(run):
    found = LouisKV(calibration=run.measured("louiskv", turn=lambda n: [0.2 + 0.2 * n]))
    view = found.view(run.target)
    assert isinstance(view.trigger, QueryTurn) and view.trigger.threshold == pytest.approx(0.3)
    assert view.groups.threshold == view.trigger.threshold
    assert LouisKV(turn=0.7).view(run.target).trigger == QueryTurn(0.7, and_rounds=True)
    assert LouisKV(turn=0.7, refresh="pass").view(run.target).refresh == "pass"


def test_sentencekv_says_that_it_needs_a_tokenizer(run):
    with pytest.raises(InvalidArgument, match="needs a tokenizer"):
        Engine(run.target.model).generate([1, 2], drafter="sentencekv", max_new_tokens=2)
    with pytest.raises(InvalidArgument, match="needs a tokenizer"):
        SentenceKV().view(run.target)
    bare = hostile.tokenizer(5)  # its first words have no mark
    assert not sentence_ends(bare)
    with pytest.raises(InvalidArgument, match="no token of this tokenizer ends one"):
        Engine(models.build("llama"), bare).generate([1, 2], view="sentencekv", max_new_tokens=2)


def test_layers_cannot_share_what_is_estimated(run):
    with pytest.raises(InvalidArgument, match="layers cannot share a choice"):
        Engine(run.target.model).generate([1, 2], drafter="retrieval", anchors=(0,))
