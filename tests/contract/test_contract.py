"""The contract every drafter signs: the text is that of plain decoding, whatever it proposes.

In float64, where passes of different width agree to twelve digits and no argmax is ever a tie.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec import Engine

from helpers import hostile, models
from helpers.contract import (
    ARCHITECTURES,
    CONTROLS,
    DRAFTERS,
    EVERYWHERE,
    NEW,
    draft_for,
    engine_of,
    outcome,
    plain_of,
    run,
)
from helpers.matrix import crossed


@pytest.fixture(scope="module", params=ARCHITECTURES)
def engine(request):
    return engine_of(request.param)


@pytest.fixture(scope="module")
def llama():
    return engine_of("llama")


@pytest.fixture(scope="module")
def draft(engine):
    return draft_for(engine)


@pytest.fixture(scope="module")
def plain(engine):
    return plain_of(engine)


@crossed(
    fast=True, indirect=["engine"], drafter=DRAFTERS, controls=sorted(EVERYWHERE),
    engine=ARCHITECTURES,
)  # fmt: skip
def test_same_text(engine, draft, plain, drafter, controls):
    """Greedy and coupled: one ragged batch gives what plain decoding gives row by row."""
    kwargs = CONTROLS[controls]
    out = run(engine, draft, **DRAFTERS[drafter], **kwargs)
    assert outcome(out) == plain(**kwargs)
    assert all(g.lossless and len(g.token_ids) <= NEW for g in out)


@crossed(together=1, drafter=DRAFTERS, controls=[x for x in CONTROLS if x not in EVERYWHERE])
def test_same_text_under_every_control(llama, drafter, controls):
    """The other sampling controls; they do not meet the architecture, so one will do."""
    out = run(llama, draft_for(llama), **DRAFTERS[drafter], **CONTROLS[controls])
    assert outcome(out) == plain_of(llama)(**CONTROLS[controls])


@crossed(together=1, indirect=["engine"], drafter=DRAFTERS, engine=ARCHITECTURES)
def test_rejection_is_exact_at_temperature_zero(engine, draft, plain, drafter):
    out = run(engine, draft, **DRAFTERS[drafter], acceptance="rejection")
    assert outcome(out) == plain()


# In the names of those that draw drafts at random.
DRAWING = ("model", "casc", "whim", "longspec", "specvlm", "kivi", "triforce")


NOT_DRAWN = [d for d in DRAFTERS if not any(x in d for x in DRAWING)]


@crossed(together=1, indirect=["engine"], drafter=NOT_DRAWN, engine=ARCHITECTURES)
def test_deterministic_drafts_keep_the_seed_under_rejection(engine, plain, drafter):
    """A draft that was not drawn is verified by the walk, which is a plain step per token."""
    kwargs = {"temperature": 0.9, "seed": 3}
    out = run(engine, **DRAFTERS[drafter], acceptance="rejection", **kwargs)
    assert outcome(out) == plain(**kwargs)


SAMPLED = ["model", "model-tree", "ngram+model-tree", "cascade"]
SAMPLED += ["longspec", "longspec-tree", "longspec-nodes", "specvlm", "kivi"]


@crossed(together=1, indirect=["engine"], drafter=SAMPLED, engine=ARCHITECTURES)
def test_rejection_is_reproducible_and_obeys_limits(engine, draft, drafter):
    kwargs = {**DRAFTERS[drafter], "acceptance": "rejection", "temperature": 1.0, "eos_token_id": 2}
    first = run(engine, draft, **kwargs, seed=1)
    assert outcome(first) == outcome(run(engine, draft, **kwargs, seed=1))
    assert outcome(first) != outcome(run(engine, draft, **kwargs, seed=2))
    for g in first:
        assert len(g.token_ids) == NEW or g.token_ids[-1] == 2
        assert 2 not in g.token_ids[:-1]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mixture(llama, data):
    """Random prompts, controls, drafters and batch shapes."""
    prompts = data.draw(
        st.lists(
            st.lists(st.integers(0, models.VOCAB - 1), min_size=1, max_size=20),
            min_size=1,
            max_size=4,
            unique_by=tuple,  # equal prompts of a call draw each for itself
        )
    )
    kwargs = {"max_new_tokens": data.draw(st.integers(1, 20))}
    if data.draw(st.booleans()):
        kwargs |= {"temperature": data.draw(st.floats(0.2, 2.0)), "seed": data.draw(st.integers(0))}
        kwargs["seed"] %= 1 << 64
        kwargs["top_p"] = data.draw(st.sampled_from([None, 0.5, 0.9]))
    kwargs["repetition_penalty"] = data.draw(st.sampled_from([None, 1.2]))
    kwargs["eos_token_id"] = data.draw(st.lists(st.integers(0, models.VOCAB - 1), max_size=3))
    drafter = data.draw(st.sampled_from([*hostile.HOSTILE, "ngram"]))
    want = [llama.generate(p, drafter="none", **kwargs) for p in prompts]
    assert outcome(llama.generate(prompts, drafter=drafter, **kwargs)) == outcome(want)


@pytest.mark.parametrize("name", ["mistral", "qwen2", "phi3", "qwen3-moe"])
def test_the_default_drafter_suits_every_architecture(name):
    """Also where a candidate of `auto` does not: it does without that one."""
    engine = Engine(models.build(name))
    prompt, kwargs = [3, 4, 5] * 20, {"max_new_tokens": 12, "eos_token_id": []}
    plain = engine.generate(prompt, drafter="none", **kwargs)
    out = engine.generate(prompt, **kwargs)
    assert out.drafter == "auto" and out.token_ids == plain.token_ids
    assert sum(out.stats.choices.values()) == out.stats.num_spec_steps == len(out.stats.steps)
