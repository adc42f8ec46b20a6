"""Budgets of layers and plans of heads, as views read by them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.model.target import Target
from specdec.sampling.tree import TokenTree
from specdec.sparse.budgets.layer_shares import LayerShares
from specdec.sparse.importances.accumulated import AccumulatedMass
from specdec.sparse.importances.running import Running
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.plans.head_plan import HeadPlan
from specdec.sparse.view import SparseView

from helpers import models
from helpers.passes import make_row

PROMPT = [(7 * i * i + 3) % 40 for i in range(90)]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def target(request):
    return Target(models.build(request.param, dtype=torch.float64))


def draft_of(target, **how):
    """A draft's first pass under a view, its logits, and those of the full view."""
    view = SparseView(
        "x", sharing=Sharing(),
        **{"budget": 24, "sink": 2, "recent": 4, "layer_types": tuple(target.layer_types), **how},
    )  # fmt: skip
    view.check(target)
    row = make_row(0, PROMPT)
    base = CachedModel(target, FullView(), [row], recorder=QueryRecorder.of(view.needs))
    draft = CachedModel(target, view, [row], base=base)
    tree = TokenTree.root(row.tokens[-1])
    want = CachedModel(target, FullView(), [row], base=base).forward([row], [tree])[0]
    with torch.inference_mode():
        got = draft.forward([row], [tree])[0]
    return draft, got, want


@dataclass(frozen=True)
class Uneven:
    """More for a layer the more its scores say; asked for all layers at once."""

    seen: list
    by_head: bool = False
    looks = True

    def __hash__(self):
        return 0

    def tokens(self, layers, mean, scores):
        self.seen.append([layers, mean, [score.clone() for score in scores]])
        step = [mean + 4 * (2 * place - len(layers) + 1) for place in range(len(layers))]
        if not self.by_head:
            return step
        heads = scores[0].shape[0]
        return [torch.tensor([n - 2, n + 2] * heads)[:heads] for n in step]


@pytest.mark.parametrize("by_head", [False, True])
def test_layers_read_what_a_budget_gives_them(target, by_head):
    budget = Uneven([], by_head)
    draft, _, _ = draft_of(target, importance=Running(AccumulatedMass()), layers=budget)
    full = [i for i, kind in enumerate(target.layer_types) if kind != "sliding_attention"]
    ((layers, mean, scores),) = budget.seen  # once, before the first layer read
    assert layers == full and mean == 24 and len(scores) == len(full)
    for place, layer in enumerate(full):
        selection = draft.state.of(0).selections[layer]
        counts = (selection.pages >= 0).sum(dim=1).tolist()
        want = 24 + 4 * (2 * place - len(full) + 1)
        heads = len(counts)
        assert counts == ([want - 2, want + 2] * heads)[:heads] if by_head else [want] * heads
        assert selection.budget == (sum(counts) // heads)
        for head, count in enumerate(counts):  # the best by the scores it was shown
            kept = selection.pages[head, :count].tolist()
            left = [t for t in range(scores[place].shape[1]) if t not in kept]
            free = [t for t in kept if 2 <= t < scores[place].shape[1] - 4]
            score = scores[place][head]
            assert min(score[t] for t in free) >= max(score[t] for t in left)


def test_shares_from_a_table():
    assert LayerShares((1.0, 2.0, 3.0)).tokens([0, 2], 40, []) == [20, 60]
    with pytest.raises(InvalidArgument, match="not all above 0"):
        LayerShares((1.0, 0.0))
    with pytest.raises(InvalidArgument, match="has a layer 3"):
        LayerShares((1.0, 2.0)).tokens([0, 3], 40, [])


def test_budgets_that_cannot_be_divided(target):
    with pytest.raises(InvalidArgument, match="not known before they run"):
        draft_of(target, layers=Uneven([]))
    with pytest.raises(InvalidArgument, match="was not told"):
        draft_of(target, layers=LayerShares((1.0,)), layer_types=())


def plan_of(target, far):
    kinds = target.layer_types
    heads = target.kv_shape.kv_heads
    return HeadPlan(tuple(() if kind == "sliding_attention" else (far,) * heads for kind in kinds))


def test_retrieval_heads_read_all_and_others_first_and_last_tokens(target):
    draft, got, want = draft_of(target, heads=plan_of(target, True))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    reads = draft.state.reads_of(0)
    assert reads.tokens == reads.context == [len(PROMPT) - 1]
    draft, got, want = draft_of(target, heads=plan_of(target, False))
    assert (got - want).abs().max() > 1e-4
    assert draft.state.reads_of(0).tokens == [6] and draft.view.reads is None
    for selection in draft.state.of(0).selections.values():
        for pages in selection.pages:
            last = len(PROMPT) - 1
            assert sorted(pages[pages >= 0].tolist()) == [0, 1, *range(last - 4, last)]


def test_a_plan_fits_its_model(target):
    plan = plan_of(target, True)
    plan.check(target)
    for far in (plan.far[1:], (*plan.far[:-1], (True,) * 7), ()):
        with pytest.raises(InvalidArgument, match="does not fit"):
            HeadPlan(far).check(target)
