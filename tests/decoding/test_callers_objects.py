"""Processors and criteria are the caller's own; copies are whole copies, or refused."""

from __future__ import annotations

import dis
import functools
import math
import threading

import pytest
import torch
import transformers

import specdec.hf
from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.sampling.forking import CannotFork, fork, is_plain_function
from specdec.sampling.processors import _FUNCTIONS, is_stateless

from helpers import models


@pytest.fixture(scope="module")
def model():
    return models.build("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def draft():
    return models.build("llama", dtype=torch.float64, seed=7)


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama", dtype=torch.float64))


def by_turns():
    """Even and odd tokens by turns, counted in a closure."""
    calls = 0

    def shape(ids, scores):
        nonlocal calls
        calls += 1
        scores = scores.clone()
        scores[:, calls % 2 :: 2] = -torch.inf
        return scores

    return shape


class ByTurns:
    def __init__(self, calls=0):
        self.calls = calls

    def __call__(self, ids, scores):
        self.calls += 1
        scores = scores.clone()
        scores[:, self.calls % 2 :: 2] = -torch.inf
        return scores

    def method(self, ids, scores):
        return self(ids, scores)


def in_a_default(ids, scores, seen=None):
    seen.append(len(seen) + 1)
    scores = scores.clone()
    scores[:, seen[-1] % 2 :: 2] = -torch.inf
    return scores


def with_default():
    return lambda ids, scores, seen=[]: in_a_default(ids, scores, seen)


def wrapped():
    inner = by_turns()
    return functools.partial(lambda f, ids, scores: f(ids, scores), inner)


_seen, _count = [], 0


def in_a_global_list(ids, scores):
    return in_a_default(ids, scores, _seen)


def in_a_global_number(ids, scores):
    global _count
    _count += 1
    scores = scores.clone()
    scores[:, _count % 2 :: 2] = -torch.inf
    return scores


def in_an_attribute(ids, scores):
    return in_a_default(ids, scores, in_an_attribute.seen)


def afresh(function):
    """The function, and its state at the beginning."""
    global _count
    _count = 0
    _seen.clear()
    in_an_attribute.seen = []
    return function


class Holder:
    """Holds a function whose closure is the state."""

    def __init__(self):
        self.function = by_turns()

    def __call__(self, ids, scores):
        return self.function(ids, scores)


STATES = {
    "closure": by_turns, "object": ByTurns, "method": lambda: ByTurns().method,
    "default": with_default, "partial": wrapped, "held": Holder,
    "partial of a method": lambda: functools.partial(ByTurns().method),
    "global list": lambda: afresh(in_a_global_list), "attribute": lambda: afresh(in_an_attribute),
    "global number": lambda: afresh(in_a_global_number),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
@pytest.mark.parametrize("drafter", ["none", "model"])
@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
def test_state_counts_the_tokens_of_each_row(llama, draft, state, drafter, acceptance):
    how = {"draft_model": draft} if drafter == "model" else {}
    out = llama.generate(
        [[1, 2], [3], [4, 5, 6]], temperature=1.0, seed=1, acceptance=acceptance, drafter=drafter,
        max_new_tokens=8, eos_token_id=[], logits_processor=[state()], **how,
    )  # fmt: skip
    for g in out:
        assert [token % 2 for token in g.token_ids] == [0, 1] * 4


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_copy_goes_its_own_way(state):
    one = state()
    ids, scores = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 4)
    one(ids, scores)
    two = fork(one)
    for expected in (1, 0, 1):
        assert int(one(ids, scores).argmax()) == expected
    assert int(two(ids, scores).argmax()) == 1  # as one was when it was copied


def test_what_cannot_be_copied_is_refused_by_name():
    class Locked:
        def __init__(self):
            self.lock = threading.Lock()

    class Counting:
        def __call__(self, ids, scores):
            global _count
            _count += 1
            return scores

    with pytest.raises(CannotFork, match=r"Locked cannot be copied.*fork\(\)"):
        fork(Locked())
    with pytest.raises(CannotFork, match="Counting.*global"):
        fork(Counting())


def test_functions_that_have_nowhere_to_keep_a_state():
    def one(ids, scores, bias=(1.0, None)):
        return torch.log_softmax(scores + bias[0], -1) * math.pi

    assert is_plain_function(one) and is_plain_function(lambda ids, scores: wrapped)
    for state in STATES.values():
        assert not is_plain_function(state())


def test_models_and_tokenizers_are_shared(model):
    class Guide:
        def __init__(self):
            self.model, self.calls = model, []

        def __call__(self, ids, scores):
            return scores

    twin = fork(Guide())
    assert twin.model is model
    held = fork(lambda ids, scores: (model, scores)[1])
    assert held.__closure__[0].cell_contents is model


class Uncopyable:
    """As one that is written in another language."""

    def __init__(self):
        self.native, self.lengths = threading.Lock(), []

    def __call__(self, ids, scores):
        self.lengths.append(ids.shape[1])
        return scores


@pytest.mark.parametrize("drafter", ["none", "ngram", "model"])
@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
def test_a_lone_row_has_the_callers_own_object(llama, draft, drafter, acceptance):
    """Asked once for every token, in order, whatever is drafted."""
    own, how = Uncopyable(), {"draft_model": draft} if drafter == "model" else {}
    out = llama.generate(
        [1, 2, 3], logits_processor=[own], drafter=drafter, acceptance=acceptance, max_new_tokens=9,
        temperature=1.0, seed=4, eos_token_id=[], **how,
    )  # fmt: skip
    assert len(out.token_ids) == 9
    if acceptance == "coupled" or drafter == "model":
        assert own.lengths == list(range(3, 12))
    with pytest.raises(InvalidArgument, match="Uncopyable"):
        llama.generate([[1, 2], [3]], logits_processor=[own], max_new_tokens=2)


def test_a_criterion_keeps_its_records_and_its_flag(llama):
    class Cancel:
        def __init__(self):
            self.cancelled, self.asked, self.lock = False, 0, threading.Lock()

        def __call__(self, ids, scores):
            self.asked += 1
            return self.cancelled

    cancel = Cancel()
    stream = llama.stream([1, 2], stopping_criteria=[cancel], max_new_tokens=20, drafter="none")
    next(stream)
    cancel.cancelled = True
    assert sum(len(step.token_ids) for step in stream) == 1 and cancel.asked == 2


class Records(transformers.StoppingCriteria):
    """Notes the lengths it is asked about, and ends the text at one of them."""

    def __init__(self, end):
        self.end, self.lengths = end, []

    def __call__(self, ids, scores, **others):
        self.lengths.append(ids.shape[1])
        return torch.tensor([ids.shape[1] == self.end])


@pytest.mark.filterwarnings("ignore::UserWarning")  # transformers' own advice
@pytest.mark.parametrize("end", ["length", "eos", "criterion"])
def test_every_criterion_is_asked_about_every_token(model, end):
    """Also about the last, whatever ends the text: as transformers asks them."""
    ids, options = torch.tensor([[1, 2, 3]]), {"do_sample": False, "max_new_tokens": 6}
    if end == "eos":
        options |= {"eos_token_id": int(model.generate(ids, **options)[0, 5]), "pad_token_id": 0}
    found = []
    for ours in ({}, {"custom_generate": specdec.hf.generate}):
        mine = [Records(6 if end == "criterion" else 99), Records(99)]
        criteria = transformers.StoppingCriteriaList(mine)
        model.generate(ids, stopping_criteria=criteria, **options, **ours)
        found.append([criterion.lengths for criterion in mine])
    assert found[0] == found[1] and found[1][0] == found[1][1]


def test_the_list_of_functions_names_what_transformers_has():
    known = vars(transformers.generation.logits_process)
    assert set(known) >= _FUNCTIONS
    for name in (
        "SynthIDTextWatermarkLogitsProcessor", "WhisperNoSpeechDetection",
        "UnbatchedClassifierFreeGuidanceLogitsProcessor", "DiaEOSDelayPatternLogitsProcessor",
        "EncoderRepetitionPenaltyLogitsProcessor", "EncoderNoRepeatNGramLogitsProcessor",
    ):  # fmt: skip
        assert not is_stateless(known[name].__new__(known[name]))
    for name in _FUNCTIONS:  # none writes to itself when it is called, but what it had to prepare
        call = known[name].__call__
        code = getattr(call, "__wrapped__", call).__code__
        stores = {x.argval for x in dis.get_instructions(code) if x.opname == "STORE_ATTR"}
        assert stores <= PREPARED, name


# What some compute or move to a device at their first call.
PREPARED = {"prepared_bias_variables", "length_1_bias", "prompt_ignore_length", "eos_token_id"}


class Turns:
    """Allowed tokens, even and odd by turns, counted with every call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, batch_id, ids):
        self.calls += 1
        return list(range(self.calls % 2 + 1, 40, 2))


@pytest.mark.parametrize("drafter", ["none", "ngram", "model"])
@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
def test_allowed_tokens_with_a_state_are_asked_once_for_every_token(
    llama, draft, drafter, acceptance
):
    how = {"draft_model": draft} if drafter == "model" else {}
    for prompts in ([1, 2, 3], [[1, 2], [3]]):
        out = llama.generate(
            prompts, prefix_allowed_tokens_fn=Turns(), drafter=drafter, acceptance=acceptance,
            temperature=1.0, seed=2, max_new_tokens=8, eos_token_id=[], **how,
        )  # fmt: skip
        for g in out if isinstance(out, list) else [out]:
            assert [token % 2 for token in g.token_ids] == [0, 1] * 4


# -- through transformers: objects that see all rows ----------------------------------------------

PADDED = torch.tensor([[0, 0, 4, 5], [7, 8, 9, 4], [0, 6, 3, 2]])
MASK = (PADDED != 0).long()


class RowsOwn(transformers.LogitsProcessor):
    def __call__(self, ids, scores):
        allowed = 10 + torch.arange(len(ids))[:, None] + ids.shape[1] % 3
        return torch.full_like(scores, -torch.inf).scatter_(1, allowed, 0.0)


class Rivals(transformers.LogitsProcessor):
    """No row may say what the row above has just said."""

    def __call__(self, ids, scores):
        scores = scores.clone()
        scores[1:].scatter_(1, ids[:-1, -1:], -torch.inf)
        return scores


class Counted(transformers.LogitsProcessor):
    def __init__(self):
        self.calls = 0

    def __call__(self, ids, scores):
        self.calls += 1
        return scores.roll(self.calls, -1)


class Ends(transformers.StoppingCriteria):
    def __call__(self, ids, scores, **_):
        return torch.tensor([ids.shape[1] >= n for n in (5, 9, 7)])


@pytest.fixture(scope="module")
def padded():
    """In float32: transformers' eager attention of padded rows is no number in float64."""
    return models.build("llama", dtype=torch.float32)


@pytest.mark.parametrize("eos", [None, 1])
@pytest.mark.parametrize(
    "given",
    [
        {"logits_processor": RowsOwn}, {"logits_processor": Rivals}, {"logits_processor": Counted},
        {"stopping_criteria": Ends}, {"logits_processor": Rivals, "stopping_criteria": Ends},
        {"encoder_repetition_penalty": 1.5}, {"encoder_no_repeat_ngram_size": 2},
        {"logits_processor": Rivals, "repetition_penalty": 1.3, "min_new_tokens": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_batch_is_asked_as_transformers_asks_it(padded, given, eos):
    def call(**more):
        made = {k: [v()] if isinstance(v, type) else v for k, v in given.items()}
        return padded.generate(
            PADDED, attention_mask=MASK, do_sample=False, max_new_tokens=7, pad_token_id=0,
            eos_token_id=eos, **made, **more,
        )  # fmt: skip

    ours = call(custom_generate=specdec.hf.generate, drafter="ngram")
    assert torch.equal(ours, call())


@pytest.mark.parametrize("rows", [1, 3])
def test_allowed_tokens_with_a_state_through_transformers(padded, rows):
    draft = models.build("llama", dtype=torch.float32, seed=7)

    def call(**more):
        return padded.generate(
            PADDED[-rows:], attention_mask=MASK[-rows:], do_sample=False, max_new_tokens=7,
            pad_token_id=0, eos_token_id=None, prefix_allowed_tokens_fn=Turns(), **more,
        )  # fmt: skip

    ours = call(custom_generate=specdec.hf.generate, drafter="model", draft_model=draft)
    assert torch.equal(ours, call())


def test_sampled_rows_in_lockstep_are_those_of_the_engine(model, llama):
    """The same seed gives a prompt the same text, whichever loop it went through."""
    ours = model.generate(
        PADDED, attention_mask=MASK, do_sample=True, max_new_tokens=7, pad_token_id=0,
        eos_token_id=None, logits_processor=[lambda i, s: s], custom_generate=specdec.hf.generate,
        seed=5, top_k=0,
    )  # fmt: skip
    for row, mask, text in zip(PADDED, MASK, ours[:, 4:]):
        want = llama.generate(
            row[mask.bool()].tolist(), temperature=1.0, seed=5, max_new_tokens=7, eos_token_id=[]
        )
        assert text.tolist() == want.token_ids
