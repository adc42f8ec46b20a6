"""Embeddings that are kept are those of the target, however many are asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec import Engine
from specdec.drafts.longspec import embedded
from specdec.drafts.longspec.embedded import Embedded

from helpers import hostile, models


@pytest.fixture(scope="module")
def target():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB)).target


def test_whatever_was_asked_before(target, monkeypatch):
    monkeypatch.setattr(embedded, "_KEPT", 8)
    weight = target.model.get_input_embeddings().weight.detach()
    token = st.integers(-1, models.VOCAB - 1)

    @given(st.lists(st.lists(token, min_size=1, max_size=7), min_size=1, max_size=9))
    def check(calls):
        kept = Embedded(target, torch.float64)
        for tokens in calls:
            found = kept.of(tokens)
            for one, x in zip(tokens, found, strict=True):
                assert torch.equal(x, weight[one].double() if one >= 0 else torch.zeros_like(x))

    check()


def test_a_token_is_looked_up_once(target):
    kept, asked = Embedded(target, torch.float64), []
    found = kept._looked_up
    kept._looked_up = lambda tokens: asked.append(list(tokens)) or found(tokens)
    for tokens in ([3, 4, 3], [4, 5], [3, 5, -1], [-1]):
        kept.of(tokens)
    assert asked == [[3, 4], [5], [-1]]
