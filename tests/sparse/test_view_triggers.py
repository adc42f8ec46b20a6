"""When a view selects anew: each trigger by its rule, their spellings, and in a view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sampling.tree import TokenTree
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.scorers.page_bounds import PageBounds
from specdec.sparse.triggers.base import Moment
from specdec.sparse.triggers.every_pass import EveryPass
from specdec.sparse.triggers.every_rounds import EveryRounds
from specdec.sparse.triggers.every_tokens import EveryTokens
from specdec.sparse.triggers.falling import Falling
from specdec.sparse.triggers.once import Once
from specdec.sparse.triggers.query_turn import QueryTurn
from specdec.sparse.triggers.spelling import TRIGGERS, trigger_of
from specdec.sparse.view import SparseView

from helpers import models
from helpers.passes import make_row


def ages(trigger, **what):
    """In which rounds since a selection the trigger is due."""
    return [age for age in range(6) if trigger.is_due(Moment(age, tokens=3 * age, **what))]


def test_each_is_due_by_its_rule():
    assert ages(EveryPass()) == [0, 1, 2, 3, 4, 5]
    assert ages(EveryRounds(1)) == [1, 2, 3, 4, 5]
    assert ages(EveryRounds(4)) == [4, 5]
    assert ages(EveryTokens(7)) == [3, 4, 5]
    assert ages(Once()) == ages(Falling()) == []
    assert ages(Falling(), is_falling=True) == [1, 2, 3, 4, 5]
    for trigger in (EveryRounds(4), EveryTokens(70), Once(), Falling(), QueryTurn()):
        assert ages(trigger, is_whole=True) == [1, 2, 3, 4, 5], trigger  # read whole so far


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.3, 0.9])
def test_a_query_turns_by_the_mean_cosine_of_the_heads(threshold):
    rng = np.random.default_rng(0)
    for _ in range(50):
        q, before = rng.normal(size=(2, 3, 4)) + rng.normal(size=(1, 3, 4))
        norms = np.linalg.norm(q, axis=-1) * np.linalg.norm(before, axis=-1)
        cosine = ((q * before).sum(-1) / norms).mean()
        moment = Moment(0, q=torch.from_numpy(q), before=torch.from_numpy(before))
        assert QueryTurn(threshold).is_due(moment) == (cosine < threshold)
    assert not QueryTurn(threshold).is_due(Moment(0, q=torch.ones(1, 2)))  # the first pass
    alike = {"q": torch.ones(1, 2), "before": torch.ones(1, 2)}
    assert ages(QueryTurn(threshold), **alike) == []
    assert ages(QueryTurn(threshold, and_rounds=True), **alike) == [1, 2, 3, 4, 5]


def test_spellings():
    assert trigger_of("pass") == EveryPass() and trigger_of(3) == EveryRounds(3)
    assert trigger_of(EveryTokens(5)) == EveryTokens(5) and set(TRIGGERS) >= {"round", "turn"}
    for bad in ("sometimes", 0, -2, True):
        with pytest.raises(InvalidArgument, match="refresh="):
            trigger_of(bad)
    with pytest.raises(InvalidArgument, match="at least one"):
        EveryTokens(0)
    with pytest.raises(InvalidArgument, match="no cosine"):
        QueryTurn(1.5)


@torch.inference_mode()
@pytest.mark.parametrize("threshold", [-1.0, 0.9999])
def test_a_view_selects_anew_where_queries_turn(threshold):
    """Any cosine is below 0.9999 here, none below -1. The first pass selects in any case."""
    target = Target(models.build("llama", dtype=torch.float32, head_dim=16))
    row = make_row(0, [(7 * i * i + 3) % 40 for i in range(90)])
    base = CachedModel(target, FullView(), [row])
    view = SparseView(
        "x", PageBounds(4), Sharing(), 24, 2, 4, refresh=QueryTurn(threshold)
    )  # fmt: skip
    draft = CachedModel(target, view, [row], base=base)
    made = []
    for token in (1, 2, 3):
        draft.forward([row], [TokenTree.root(row.tokens[-1])])
        made.append(dict(draft.state.of(0).selections))
        row.tokens.append(token)
    assert len(made[0]) == target.num_layers
    anew = [made[i][layer] is not made[i + 1][layer] for i in range(2) for layer in made[0]]
    assert all(anew) if threshold > 0 else not any(anew)
