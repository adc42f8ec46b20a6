"""Angles that are looked up are those that the target gives."""

from __future__ import annotations

import pytest
import torch

from specdec import Engine
from specdec.drafts.longspec.angles import CHUNK, Angles
from specdec.drafts.longspec.rotary import Rotary

from helpers import hostile, models

PLACES = [[[0, 1, 7]], [[CHUNK - 1, CHUNK, CHUNK + 1]], [[5], [3 * CHUNK + 2], [CHUNK]]]


@pytest.fixture(scope="module")
def rotary():
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    return Rotary(engine.target, 0)


@pytest.mark.parametrize("places", PLACES)
def test_angles_of_any_places(rotary, places):
    x, positions = torch.zeros(len(places), 3, 4), torch.tensor(places)
    angles = Angles(rotary)
    for _ in range(2):  # worked out, and kept
        found = angles.at(x, positions)
        torch.testing.assert_close(found, rotary.angles(x, positions), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "never heard of"])
def test_angles_that_may_grow_with_the_text_are_not_kept(rotary, monkeypatch, kind):
    asked = []
    assert rotary.are_fixed
    monkeypatch.setattr(rotary._embed, "rope_type", kind)
    monkeypatch.setattr(rotary, "angles", lambda x, positions: asked.append(positions))
    angles, positions = Angles(rotary), torch.tensor([[3]])
    for _ in range(2):
        angles.at(torch.zeros(1, 1, 4), positions)
    assert len(asked) == 2 and all(x is positions for x in asked)
