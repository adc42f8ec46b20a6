"""One engine for each class of models for images, shared by a module's tests, and its twin."""

from __future__ import annotations

import copy
from functools import cache
from typing import NamedTuple

import pytest
from transformers import PreTrainedModel

from specdec import Engine

from helpers import vision
from helpers.adapter import characters
from helpers.models import VOCAB


class Pair(NamedTuple):
    """The same model twice: as transformers has it, and driven."""

    name: str
    model: PreTrainedModel
    engine: Engine

    def text(self, inputs, new, **settings):
        """What transformers makes of one prompt."""
        out = self.model.generate(**inputs, max_new_tokens=new, do_sample=False, **settings)
        return out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def pair_of():
    @cache
    def made(name: str) -> Pair:
        model = vision.build(name, seed=1)
        return Pair(name, model, Engine(copy.deepcopy(model), characters(VOCAB)))

    return made
