"""Whole static passes on the kernels of a GPU, under the interpreter: what a CUDA graph captures.

See `test_attention.py`. The tape of `test_graphs.py` writes down launches
of Triton here, with their strides, types and numbers.
"""

from __future__ import annotations

import random

import pytest
import torch

from specdec.decoding import cached_model, prefill
from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.kernels import dispatch
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.scorers.label_channels import LabelChannels
from specdec.sparse.scorers.page_bounds import PageBounds
from specdec.sparse.view import SparseView

from helpers import models
from helpers.graphed import NEVER, graphed, lengths_apart
from helpers.passes import Oracle, make_row, random_tree, same_passes, take_up
from helpers.triton_drawn import DEVICE

NEW = 16  # tokens that rows may grow by

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="test_graphs.py runs on a GPU by itself")


@pytest.fixture(autouse=True)
def _lengths_apart(monkeypatch):
    lengths_apart(monkeypatch)


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """All ops run in Triton where they can; the names of those that did."""
    names, call = set(), dispatch.Op.__call__

    def noted(op, *args, **kwargs):
        names.update({op.__name__} if "triton" in op._kinds else ())
        return call(op, *args, **kwargs)

    monkeypatch.setattr(dispatch.Op, "__call__", noted)
    for module in (cached_model, prefill):
        monkeypatch.setattr(module, "SLACK", 32)  # launches go by capacity
    monkeypatch.setattr(dispatch, "kind_for", lambda x: "triton")
    return names


@pytest.mark.parametrize("name", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_full_passes(name, launched):
    model = models.build(name, dtype=torch.float32)
    oracle = Oracle(model)
    plain, replayed = graphed(model, after=NEVER), graphed(model)
    for rows, trees, (a, b), grown, tokens, (c, d) in same_passes(
        [plain, replayed], rounds=1, new=NEW
    ):
        assert all(map(torch.equal, a, b)) and torch.equal(c, d)
        for row, tree, logits in zip(rows, trees, a):
            oracle.check(row, tree, logits)
        for row, tree, (node,), (token,), want in zip(rows, trees, grown, tokens, c):
            text = row.tokens + tree.path_tokens(node) + [token]
            oracle.close(want[0], text)
    assert not replayed.graphs.refused and replayed.graphs.replays
    assert launched >= {"prefix_attention", "tree_attention", "merge", "stage_kv"}


@pytest.mark.parametrize(
    ("scorer", "sharing", "op"),
    [
        (PageBounds(4), Sharing(), "score_bounds"),
        pytest.param(LabelChannels(4), Sharing(), "score_labels", marks=pytest.mark.slow),
        pytest.param(
            ExactMass(1),
            Sharing(anchors=(0,), exact_anchors=True),
            "page_mass",
            marks=pytest.mark.slow,
        ),
    ],
)
@torch.inference_mode()
def test_passes_that_choose(scorer, sharing, op, launched, monkeypatch):
    """The same logits as by the plain kernels, and the same bits by replays."""
    model = models.build("llama", dtype=torch.float32)
    view = SparseView("view", scorer, sharing, 12, 4, 4, refresh="round")
    found = []
    for after, kind in ((0, "triton"), (NEVER, "triton"), (NEVER, "plain")):
        target, rng = graphed(model, after), random.Random(1)
        prompts = [[(7 * i + j * j) % 40 for j in range(41 - 9 * i)] for i in (0, 1)]
        rows = [make_row(i, prompt, new=NEW) for i, prompt in enumerate(prompts)]
        kinds = {"base": "plain", "draft": kind}  # full passes are tried above, and cost as much
        monkeypatch.setattr(dispatch, "kind_for", lambda x: kinds[running])
        running = "base"
        base = CachedModel(target, FullView(), rows)
        draft, logits = CachedModel(target, view, rows, base=base), []
        for is_last in (False, True):
            trees = [random_tree(rng, row.tokens[-1], 2) for row in rows]
            running = "draft"
            logits += draft.forward(rows, trees)
            if is_last:
                roots = [[draft.root_slot(row)] for row in rows]
                logits += list(draft.grow(rows, [[3], [4]], roots)[1])
            running = "base"
            base.forward(rows, trees)
            for row, tree in zip(rows, trees):
                take_up(row, tree, 1, 5)
        found.append(logits)
        assert not target.graphs.refused and bool(target.graphs.replays) == (after == 0)
    for replayed, launched_, plain in zip(*found):
        assert torch.equal(replayed, launched_)
        torch.testing.assert_close(launched_, plain, rtol=1e-3, atol=1e-3)
    assert launched >= {"gather_attention", "topk_pages", "prefix_attention", "tree_attention", op}
