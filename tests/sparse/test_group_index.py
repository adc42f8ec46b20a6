"""What is kept beside texts follows them: after commits, trees, crops and forks it is what making
it anew gives."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.layout import segments_of
from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import PromptQueries
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.view_state import ViewState
from specdec.model.target import Target
from specdec.sparse.group_index import GroupIndices
from specdec.sparse.groupings.clusters import Clusters
from specdec.sparse.groupings.clusters_then_segments import ClustersThenSegments
from specdec.sparse.groupings.nested_chunks import NestedChunks
from specdec.sparse.groupings.sentences import Sentences
from specdec.sparse.maths.bound_tree import BoundTree
from specdec.sparse.query_trail import KEPT, Trails
from specdec.sparse.selecting_groups import grouped
from specdec.sparse.text import Text, lengths
from specdec.sparse.triggers.query_turn import likeness

from helpers import models
from helpers.passes import make_row, random_tree, take_up

GROUPINGS = (
    Sentences(frozenset({3, 9, 20, 31})),
    Sentences(frozenset({3, 9, 20, 31}), survivors=25),
    Clusters(update=16),
    ClustersThenSegments(0.1),
    NestedChunks(BoundTree((8, 4, 2))),
)
LEAST = {Clusters: 16, NestedChunks: 8}  # tokens behind which these leave nothing open


@pytest.fixture(scope="module")
def target():
    return Target(models.build("llama", dtype=torch.float64))


def indices(model, grouping, sequence):
    """Of each level and layer where parts end, and their lines, brought up to date."""
    out = []
    q = torch.zeros(4, 1, 8, dtype=torch.float64)
    for layer in range(2):
        store = model.store
        (x,) = segments_of(store, [sequence], [0], ViewState(), layer)
        known, counts = model.text.held[sequence], tuple(lengths(store, sequence))
        grouped(grouping, Text(store, sequence, layer, counts, q.device, 1.0, None, known), x, q)
        for level, row in zip(store.levels, x.rows):
            index = GroupIndices.of(level, grouping).index(row, layer)
            out.append((list(index.ends), [line.clone() for line in index.lines]))
    return out


def taken_back(rng, model, row):
    """Some of the end of a text, as where it is cut at a stop string."""
    held = model.text.held[row.index]
    low = max(model.store.offset(row.index), 1)
    length = rng.randint(low, len(held.tokens))
    model.store.crop(row.index, length)
    del held.tokens[length:]
    held.unstage()
    held.num_final = min(held.num_final, length)
    row.tokens[length + 1 :] = []
    row.num_final = len(row.tokens)


@torch.inference_mode()
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 20), rounds=st.integers(1, 8), samples=st.integers(1, 2))
@example(seed=12288, rounds=7, samples=1)  # cut where the token behind had closed a segment
def test_groups_are_those_of_cutting_the_text_at_once(target, seed, rounds, samples):
    rng = random.Random(seed)
    prompts = [[rng.randrange(40) for _ in range(n)] for n in (rng.randint(3, 20), 90)]
    rows = [
        make_row(i * samples + s, prompt, i)
        for i, prompt in enumerate(prompts)
        for s in range(samples)
    ]
    needs = [x.needs for x in GROUPINGS]
    wants = Needs(32, True, followers=needs[0].followers)
    model = CachedModel(target, FullView(), rows, recorder=QueryRecorder.of(wants))
    for _ in range(rounds):
        active = [row for row in rows if rng.random() < 0.8] or rows[:1]
        trees = [random_tree(rng, row.tokens[-1], rng.randint(1, 12)) for row in active]
        model.forward(active, trees)
        for row, tree in zip(active, trees):
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(40))
            model.sync_to(row, len(row.tokens) - 1)
            if rng.random() < 0.2:
                taken_back(rng, model, row)
        for grouping in rng.sample(GROUPINGS, 3):
            indices(model, grouping, rng.choice(active).index)
    for row in rows:
        for grouping in GROUPINGS:
            kept = indices(model, grouping, row.index)
            for level in model.store.levels:
                del level.beside[f"groups {grouping.key}"]
            fresh = indices(model, grouping, row.index)
            for (ends, lines), (also, others) in zip(kept, fresh, strict=True):
                assert ends == also
                for a, b in zip(lines, others, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            check_members(model, grouping, row, kept)


def check_members(model, grouping, row, kept):
    """Each token in a group once; means are of a group's keys; only the open end is in none."""
    store = model.store
    places = [(layer, level, rows) for layer in range(2)
              for level, rows in zip(store.levels, store.row_maps)]  # fmt: skip
    for (layer, level, at), (ends, lines) in zip(places, kept, strict=True):
        covered = ends[-1] if ends else 0
        length = int(level.length[at[row.index]])
        assert covered <= length and length - covered < LEAST.get(type(grouping), 64)
        if not covered or isinstance(grouping, NestedChunks):
            continue
        members, starts, sizes, means = lines[:4]
        keys = level.k[layer][int(at[row.index])]
        for h in range(len(members)):
            assert sorted(members[h].tolist()) == list(range(covered))
            for u in range(starts.shape[1]):
                mine = members[h, starts[h, u] : starts[h, u] + sizes[h, u]].long()
                if len(mine):
                    torch.testing.assert_close(means[h, u], keys[h, mine].mean(0))
            if not getattr(grouping, "survivors", 0):
                assert int(sizes[h].sum()) == covered


@torch.inference_mode()
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 20), rounds=st.integers(1, 8), samples=st.integers(1, 2))
def test_queries_are_those_of_reading_the_text_at_once(target, seed, rounds, samples):
    """The trail's, and those of the prompt that are kept for who chooses by them."""
    rng = random.Random(seed)
    prompt = [rng.randrange(40) for _ in range(rng.randint(4, 90))]
    rows = [make_row(i, prompt, 0) for i in range(samples)]
    wants = Needs(16, True, probe_every=3, followers=GROUPINGS[0].needs.followers)
    model = CachedModel(target, FullView(), rows, recorder=QueryRecorder.of(wants))
    cut = [len(prompt) - 1] * samples  # how much of the prompt was never taken back
    for _ in range(rounds):
        for row in rows:
            tree = random_tree(rng, row.tokens[-1], rng.randint(1, 12))
            model.forward([row], [tree])
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(40))
            model.sync_to(row, len(row.tokens) - 1)
            if rng.random() < 0.3:
                taken_back(rng, model, row)
                cut[row.index] = min(cut[row.index], model.store.length(row.index))
    for row in rows:
        text = [*model.text.held[row.index].tokens, 0]
        every = QueryRecorder(400, probe_every=1)
        again = CachedModel(target, FullView(), [make_row(0, text)], recorder=every)
        trail, notes = Trails.of(model.store).rows[row.index], PromptQueries.of(model.store)
        assert trail.prompt == cut[row.index]
        for layer, queries in PromptQueries.of(again.store).window[0].items():
            last = trail.last[layer]
            assert len(last.at) <= KEPT
            torch.testing.assert_close(last.q, queries.q[:, last.at])
            alike, known = trail.alike.get(layer, []), cut[row.index]
            assert len(alike) == len(text) - 1 - known
            for t, got in enumerate(alike, known):
                if t and not np.isnan(got):
                    want = likeness(queries.q[:, t - 1], queries.q[:, t : t + 1])
                    assert got == pytest.approx(float(want), abs=1e-9)
            for kept, at in (
                (notes.window[row.index][layer], range(len(prompt) - 1)[-16:]),
                (notes.probes[row.index][layer], range(0, len(prompt) - 1, 3)),
            ):
                assert kept.at.tolist() == [t for t in at if t < cut[row.index]]
                torch.testing.assert_close(kept.q, queries.q[:, kept.at])
