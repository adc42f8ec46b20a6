"""Methods that are a file with their options: the registry names these options, and no others."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.registry import VIEWS

from helpers import models

NAMED = {name: x for name, x in VIEWS.items() if x.path.endswith("by_options:view")}


@pytest.mark.parametrize("name", NAMED)
def test_the_registry_names_a_methods_options(name):
    module, kind = NAMED[name].argument.split(":")
    method = getattr(import_module(f"specdec.sparse.methods.{module}"), kind)
    assert set(method.options()) == NAMED[name].options
    assert method.paper and method.family and method.keeps
    assert all(option.help for option in method.options().values())


@pytest.mark.parametrize(
    ("drafter", "options", "message"),
    [
        ("kvcrush", {"crush_share": 2}, r"crush_share=2 is outside \[0, 1\]"),
        ("kvcrush", {"crush_anchor": "one"}, "crush_anchor='one': give 'majority', 'ones'"),
        ("windowkv", {"window_task": "both"}, "window_task='both': give 'locate' or 'aggregate'"),
        ("defensive", {"by_output": 1}, "by_output=1: give True or False"),
        ("epicache", {"episodes": 0}, "episodes=0 is out of range"),
        ("ems", {"redundancy": "much"}, "redundancy='much' is outside"),
        ("snapkv", {"crush_share": 0.5}, "has no use for"),
        ("razor", {"calibration": "nowhere"}, "calibration='nowhere' cannot be read"),
        ("locret", {"calibration": "nowhere"}, "calibration='nowhere' cannot be read"),
        ("kvcrush", {"budget": 20}, r"budget=20 is below sink \+ recent \+ one page"),
        ("mpcache", {"budget": 30}, r"budget=30 is below sink \+ recent \+ one page"),
    ],
)
def test_what_a_method_cannot_take_is_refused(drafter, options, message):
    engine = Engine(models.build("llama", dtype=torch.float32))
    with pytest.raises(InvalidArgument, match=message):
        engine.generate([1, 2, 3], drafter=drafter, max_new_tokens=2, **options)


def test_a_text_shorter_than_the_budget_is_read_whole():
    engine = Engine(models.build("llama", dtype=torch.float32))
    for name in [x for x in NAMED if "budget" in NAMED[x].options]:
        how = {"max_new_tokens": 6, "eos_token_id": []}
        out = engine.generate([1, 2, 3] * 9, drafter=name, budget=110, **how)
        reads = out.stats.reads[name]
        assert reads.passes == reads.full_passes > 0
        assert out.token_ids == engine.generate([1, 2, 3] * 9, drafter="none", **how).token_ids
