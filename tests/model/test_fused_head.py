"""The fused LM head: greedy texts as from logits, and logits where somebody looks at them."""

from __future__ import annotations

import copy

import pytest
import torch

from helpers import models

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.model.target import Target

pytestmark = pytest.mark.fast

PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6]


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama", dtype=torch.float32))


@pytest.fixture
def asked(monkeypatch):
    """What the target was asked for, pass by pass."""
    calls = []
    for name in ("choose", "forward"):
        before = getattr(Target, name)

        def noted(self, *args, _before=before, _name=name):
            calls.append(_name)
            return _before(self, *args)

        monkeypatch.setattr(Target, name, noted)
    return calls


def texts(engine, **kwargs):
    return [g.token_ids for g in engine.generate(PROMPTS, max_new_tokens=12, **kwargs)]


@pytest.mark.parametrize("drafter", ["none", "ngram"])
def test_greedy_texts_need_no_logits(engine, asked, monkeypatch, drafter):
    """Chains, trees and ragged batches: the same tokens in the same passes."""
    ours = texts(engine, drafter=drafter)
    assert "choose" in asked
    assert drafter != "none" or set(asked) == {"choose"}  # others time a few passes as they are
    asked.clear()
    monkeypatch.setattr(engine.target, "head", None)
    assert texts(engine, drafter=drafter) == ours and set(asked) == {"forward"}


@pytest.mark.parametrize("kwargs", [{"temperature": 0.8, "seed": 1}, {"repetition_penalty": 1.2}])
def test_who_wants_logits_gets_them(engine, asked, kwargs):
    texts(engine, drafter="none", **kwargs)
    assert set(asked) == {"forward"}


def test_hooks_see_every_logit():
    engine, seen = Engine(models.build("llama", dtype=torch.float32)), []
    want = texts(engine, drafter="none")
    for module in (engine.model.get_output_embeddings(), engine.model):
        hook = module.register_forward_hook(lambda *_: seen.append(1))
        assert not engine.target.can_choose
        assert texts(engine, drafter="none") == want and seen
        hook.remove()
        seen.clear()
    assert engine.target.can_choose
    engine.packing.restore()
    assert not engine.target.can_choose


def test_a_head_with_something_behind_it_keeps_its_path():
    """gemma2 caps its logits: a cap may round two of them to a tie."""
    assert Engine(models.build("gemma2", dtype=torch.float32)).target.head is None
    biased = models.build("llama", dtype=torch.float32)
    biased.lm_head.bias = torch.nn.Parameter(torch.randn(models.VOCAB))
    plain = copy.deepcopy(biased).double()
    engine = Engine(biased)
    assert engine.target.head is not None
    assert texts(engine, drafter="none") == texts(Engine(plain), drafter="none")
