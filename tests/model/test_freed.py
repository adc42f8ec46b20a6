"""What nobody holds any more is freed: engines, models, drafts and teachers."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from specdec import Engine
from specdec.drafts.longspec.training.teacher import Teacher

from helpers import models

PROMPT = [1, 5, 2, 8, 3]
SELF = {"budget": 20, "sink": 2, "recent": 2}


def freed(*made):
    """Whether nothing of it is alive once the last name is gone."""
    gc.collect()
    return [one() is None for one in made]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["packed", "plain"])
@pytest.mark.parametrize(
    "options",
    [
        {"drafter": "auto"},
        {"drafter": "quest", **SELF},
        {"drafter": "quest", "draft_layers": 1, **SELF},
        {"drafter": "quest", "draft_weights": "int8", **SELF},
        {"drafter": "triforce", "draft_weights": "int4", **SELF, "draft_model": True},
        {"drafter": "model", "draft_model": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_an_engine_and_all_it_made(dtype, options):
    if dtype == torch.float64 and "draft_weights" in options:
        pytest.skip("layers are not fused")
    model = models.build("llama", dtype=dtype)
    draft = models.disturbed(model, 0.1) if options.get("draft_model") else None
    engine = Engine(model)
    engine.generate(PROMPT, max_new_tokens=8, **options | ({"draft_model": draft} if draft else {}))
    watched = [weakref.ref(x) for x in (engine, engine.target, model, model.model.layers[0])]
    if draft is not None:
        watched += [weakref.ref(draft), weakref.ref(draft.lm_head)]
    del engine, model, draft
    assert all(freed(*watched))


def test_a_teacher_leaves_nothing_behind():
    engine = Engine(models.build("llama", dtype=torch.float32))
    teacher = Teacher(engine.target, 1)
    lesson = teacher.read([PROMPT * 8], 0)
    assert lesson.hidden.shape == (1, 40, 24)
    watched = weakref.ref(lesson), weakref.ref(teacher)
    assert engine.target.can_choose, "nobody looks at the head any more"
    del teacher, lesson
    assert all(freed(*watched))


def test_only_the_last_model_that_was_handed_over_is_kept():
    model = models.build("llama", dtype=torch.float64)
    engine, drafts = Engine(model), [models.disturbed(model, 0.1 + i / 10) for i in range(3)]
    for draft in [*drafts, drafts[0], drafts[1]]:
        engine.generate(PROMPT, drafter="model", draft_model=draft, max_new_tokens=4)
    watched = [weakref.ref(draft) for draft in drafts]
    del draft, drafts
    assert freed(*watched) == [True, False, True]


def test_a_model_outlives_its_engine():
    """And with the packing undone it is what it was, with nothing of ours on it."""
    model = models.build("llama", dtype=torch.float32)
    before, names = copy.deepcopy(model), set(vars(model))
    engine = Engine(model)
    packing, target = weakref.ref(engine.packing), weakref.ref(engine.target)
    engine.generate(PROMPT, max_new_tokens=4)
    engine.packing.restore()
    del engine
    assert all(freed(packing, target)) and set(vars(model)) == names
    ids = torch.tensor([PROMPT])
    model.set_attn_implementation("eager")
    assert torch.equal(model(ids).logits, before(ids).logits)
