"""Settings of another kind than they should be: refused by name before any work, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LogitsProcessorList, StoppingCriteriaList

from specdec import Engine, SamplingParams
from specdec.errors import InvalidArgument, SpecdecError

from helpers import models
from helpers.ids import short

ANY = [
    b"x", "x", "5", 1.5, float("nan"), float("inf"), 1e300, [], {}, [[]], [1.5], ["a"], [None],
    [[1.5]], [["a"]], object(), True, np.array([[1]]), np.float32("nan"), {"5": 1.0}, {5: "a"},
    {5: None}, {1.5: 1}, {5: float("nan")}, {5: float("inf")}, int, 1 << 70, -(1 << 70), [b"a"],
    {"a"}, 3 + 4j, np.array([]), -1, 5,
]  # fmt: skip
FIELDS = sorted(SamplingParams.__dataclass_fields__)


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"))


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_is_understood_or_refused_by_name(engine, field):
    """Nothing but our own errors comes out, for any value in any field, and they name the field."""
    for value in ANY:
        given = {"temperature": 1.0, field: value}
        if field not in ("max_new_tokens", "max_length", "min_new_tokens", "min_length"):
            given["max_new_tokens"] = 2
        if field == "prefix_allowed_tokens_fn" and value is int:
            continue  # a function, whose answer is its own affair
        try:
            engine.generate([1, 2], drafter="none", **given)
        except SpecdecError as error:
            name = field.removesuffix("_strings")
            assert name in str(error) or "room" in str(error), (field, value, error)


GUESSED = [
    ({"eos_token_id": "5"}, "eos_token_id='5'"), ({"eos_token_id": [1.5]}, "list of token ids"),
    ({"eos_token_id": {5: 1}}, "list of token ids"), ({"suppress_tokens": [1.5]}, "list of token"),
    ({"suppress_tokens": 5}, "suppress_tokens=5"), ({"suppress_tokens": [True]}, "list of token"),
    ({"bad_words_ids": [[]]}, "list of words"), ({"bad_words_ids": [1, 2]}, "list of words"),
    ({"logit_bias": {"5": 1.0}}, "dict of token ids"), ({"logit_bias": {1.5: 1}}, "dict of token"),
    ({"logit_bias": {5: float("nan")}}, "logit_bias adds nan"),
    ({"logit_bias": {5: float("inf")}}, "logit_bias adds inf"),
    ({"logit_bias": [(5, 1.0)]}, "dict of token ids"),
    ({"sequence_bias": {5: 1.0}}, "dict of words"),
    ({"stop": b"ab"}, "stop_strings=b'ab'"), ({"stop": {"a": 1}}, "a text or a list of texts"),
    ({"logits_processor": lambda ids, scores: scores}, "give a list of functions"),
    ({"frequency_penalty": float("inf")}, "frequency_penalty=inf"),
    ({"epsilon_cutoff": 1.0, "temperature": 1.0}, "keeps no token"),
    ({"eta_cutoff": 3.0, "temperature": 1.0}, "eta_cutoff=3.0"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), GUESSED, ids=short)
def test_what_was_guessed_before(given, message):
    with pytest.raises(InvalidArgument, match=message):
        SamplingParams(**given)


def test_what_is_understood(engine):
    """Every kind that is right goes through, and is honoured."""
    free = engine.generate([1, 2], max_new_tokens=4).token_ids
    first = free[0]
    for ban in (
        {"suppress_tokens": {first}}, {"suppress_tokens": range(first, first + 1)},
        {"bad_words_ids": ((first,),)}, {"logit_bias": {first: float("-inf")}},
        {"sequence_bias": {(first,): -1e9}}, {"sequence_bias": [[[first], -1e9]]},
        {"sequence_bias": [[np.array([first]), np.float32(-1e9)]]},
        {"prefix_allowed_tokens_fn": lambda _, ids: [t for t in range(40) if t != first]},
    ):  # fmt: skip
        assert first not in engine.generate([1, 2], max_new_tokens=4, **ban).token_ids
    for none in (
        {"suppress_tokens": []}, {"logit_bias": {}}, {"logits_processor": LogitsProcessorList()},
        {"stopping_criteria": StoppingCriteriaList()}, {"eos_token_id": []},
    ):  # fmt: skip
        assert engine.generate([1, 2], max_new_tokens=4, **none).token_ids == free
    assert engine.generate([1, 2], max_new_tokens=4, eos_token_id={first}).token_ids == [first]
