"""Every field of transformers' GenerationConfig is read, refused, or known to change no text."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from specdec import Engine, SamplingParams
from specdec.errors import InvalidArgument
from specdec.sampling import generation_fields
from specdec.sampling.foreign_names import CALL
from specdec.sampling.params import NAMES

from helpers import models

pytestmark = pytest.mark.fast

FIELDS = [name for name in vars(GenerationConfig()) if not name.startswith("_")]
READ = NAMES | generation_fields.DRAFTING.keys()


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"))


@pytest.mark.parametrize("name", FIELDS)
def test_no_field_is_unknown(engine, name):
    """A field of a later release fails here, and is refused in a call until somebody reads it."""
    known = [name in READ, name in generation_fields.HARMLESS, name in CALL]
    assert any(known), f"GenerationConfig.{name} is new: read it, refuse it, or say why not"
    config = GenerationConfig()
    setattr(config, name, 3.25)
    if known[0]:
        return
    if known[1]:
        generation_fields.check(config, NAMES)
        return
    with pytest.raises(InvalidArgument, match=f"{name}=3.25"):
        engine.generate([1, 2], generation_config=config)


def test_nothing_stands_in_a_table_for_nothing():
    gone = generation_fields.HARMLESS.keys() | generation_fields.DRAFTING.keys()
    assert gone - set(FIELDS) <= {"continuous_batching_config", "disable_compile"}
    assert not generation_fields.HARMLESS.keys() & READ


def test_an_unknown_field_raises_where_it_is_set(engine):
    config = GenerationConfig(magic=None)
    engine.generate([1, 2], generation_config=config, max_new_tokens=2)
    config.magic = 0
    with pytest.raises(InvalidArgument, match=r"generation_config.magic=0 is not known"):
        engine.generate([1, 2], generation_config=config)


def test_a_complete_config_is_neutral(engine):
    """What transformers itself fills in asks for nothing."""
    config = GenerationConfig(**GenerationConfig._get_default_generation_params())
    config.max_length = None
    want = engine.generate([1, 2], max_new_tokens=6).token_ids
    assert engine.generate([1, 2], config, max_new_tokens=6).token_ids == want


@pytest.mark.parametrize("kind", ["dynamic", "static", "offloaded"])
def test_kinds_of_caches(engine, kind):
    config = GenerationConfig(cache_implementation=kind, max_new_tokens=2)
    engine.generate([1, 2], config)
    config.cache_implementation = "quantized"
    with pytest.raises(InvalidArgument, match="cache_implementation='quantized'"):
        engine.generate([1, 2], config)


def test_of_two_lengths_the_new_tokens_win(engine):
    config = GenerationConfig(max_length=30, max_new_tokens=3, min_length=1, min_new_tokens=2)
    params = SamplingParams.from_generation_config(config)
    assert (params.max_new_tokens, params.max_length) == (3, None)
    assert (params.min_new_tokens, params.min_length) == (2, None)
    params = SamplingParams.from_generation_config(config, max_length=9)
    assert (params.max_new_tokens, params.max_length) == (None, 9)
    assert (
        len(engine.generate([1, 2], GenerationConfig(max_length=30), max_tokens=4).token_ids) == 4
    )


def test_assisted_decoding_is_read_where_it_has_a_use(engine):
    config = GenerationConfig(prompt_lookup_num_tokens=3, max_matching_ngram_size=1)
    out = engine.generate([1, 2, 1, 2, 1], config, max_new_tokens=8)
    assert out.drafter == "ngram"
    assert max(step.nodes for step in out.stats.steps) <= 3
    config = GenerationConfig(num_assistant_tokens=4, assistant_confidence_threshold=0.2)
    draft = models.build("llama", seed=1)
    out = engine.generate([1, 2], config, drafter="model", draft_model=draft, max_new_tokens=8)
    assert out.drafter == "model" and max(step.nodes for step in out.stats.steps) <= 4
    assert engine.generate([1, 2], config, drafter="none", max_new_tokens=8).drafter == "none"
