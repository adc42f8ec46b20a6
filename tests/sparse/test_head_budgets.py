"""Budgets of KV heads, against AdaKV's algorithm in NumPy, and in a view."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.sampling.tree import TokenTree
from specdec.sparse.budgets import adaptive_heads
from specdec.sparse.budgets.adaptive_heads import AdaptiveHeads
from specdec.sparse.layer_select import LayerSelect
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.residues.neighbour_means import NeighbourMeans
from specdec.sparse.scorers.page_bounds import PageBounds
from specdec.sparse.view import SparseView

from helpers import models
from helpers.passes import make_row

pytestmark = pytest.mark.fast


def reference(score: np.ndarray, count: int, safeguard: float) -> list[int]:
    """AdaKV, algorithm 1, one entry after the other."""
    heads, pages = score.shape
    own = min(pages, int(safeguard * count))
    kept = [own] * heads
    rest = sorted(
        ((score[h, p], h) for h in range(heads) for p in np.argsort(-score[h])[own:]), reverse=True
    )
    for _, head in rest[: heads * (count - own)]:
        kept[head] += 1
    return kept


@given(data=st.data())
def test_heads_keep_what_the_algorithm_says(data):
    heads, pages = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30))
    count = data.draw(st.integers(1, pages))
    safeguard = data.draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    seed = data.draw(st.integers(0, 1 << 20))
    score = torch.from_numpy(np.random.default_rng(seed).random((heads, pages)))
    counts = AdaptiveHeads(safeguard).counts(score, count, 0).tolist()
    assert counts == reference(score.numpy(), count, safeguard)
    assert sum(counts) == heads * count


def test_heads_read_different_numbers_of_pages_and_the_text_is_the_same(monkeypatch):
    engine = Engine(models.build("llama", dtype=torch.float64))
    prompt = [(7 * i * i + 3) % 40 for i in range(90)]
    options = {"budget": 24, "sink": 2, "recent": 4, "max_new_tokens": 40, "eos_token_id": []}
    want = engine.generate(prompt, drafter="none", max_new_tokens=40, eos_token_id=[])
    seen = []

    class Noting(AdaptiveHeads):
        def counts(self, score, count, layer):
            seen.append(super().counts(score, count, layer))
            return seen[-1]

    monkeypatch.setattr(adaptive_heads, "AdaptiveHeads", Noting)
    got = engine.generate(prompt, drafter="ada-snapkv", **options)
    assert got.token_ids == want.token_ids
    assert any(len(set(counts.tolist())) > 1 for counts in seen)
    assert max(got.stats.reads["ada-snapkv"].tokens) <= 24


def test_own_queries_divide_the_pages_in_fused_layers_too():
    """No kernel gives heads different numbers: such layers are called one by one."""
    asked, deferred = [], []

    class Noting(AdaptiveHeads):
        def counts(self, score, count, layer):
            asked.append(count)
            return super().counts(score, count, layer)

    view = SparseView("noting", PageBounds(4), Sharing(), 24, 2, 4, refresh="pass", heads=Noting())
    engine = Engine(models.build("llama", dtype=torch.float32, head_dim=16))
    defer = LayerSelect.defer

    def noted(self):
        deferred.append(defer(self))
        return deferred[-1]

    row = make_row(0, [(7 * i * i + 3) % 40 for i in range(90)])
    base = CachedModel(engine.target, FullView(), [row])
    draft = CachedModel(engine.target, view, [row], base=base)
    with patch.object(LayerSelect, "defer", noted):
        for _ in range(3):
            draft.forward([row], [TokenTree.root(row.tokens[-1])])
    assert len(asked) == 3 * engine.target.num_layers and not any(deferred)


def test_a_residue_is_of_each_layers_own_keys():
    with pytest.raises(InvalidArgument, match="leave out anchors"):
        SparseView("x", PageBounds(4), Sharing(anchors=(0,)), 24, 2, 4, residue=NeighbourMeans())
