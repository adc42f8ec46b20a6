"""Names of other libraries: understood where that is natural, else told what they are."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import GenerationConfig

from specdec import Engine, SamplingParams
from specdec.decoding import options as draft_options
from specdec.decoding.keywords import _OWN
from specdec.errors import InvalidArgument, PromptTooLong, WeightsError
from specdec.sampling import params as sampling_params
from specdec.sampling.foreign_names import CALL, LOADING, is_neutral

from helpers import hostile, models


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.mark.parametrize("name", CALL)
def test_foreign_keywords_are_told_what_they_are(engine, name):
    """No spelling is guessed, and the way out is said; values that ask for nothing pass."""
    with pytest.raises(InvalidArgument) as caught:
        engine.generate([1, 2], max_new_tokens=2, **{name: 3.25})
    message = str(caught.value)
    assert message.startswith(f"{name}=3.25 is not supported: ")
    assert "did you mean" not in message and len(message) > len(f"{name}=3.25 is not supported: ")
    for value in (None, *CALL[name].neutral):
        engine.generate([1, 2], max_new_tokens=2, drafter="none", **{name: value})


def test_tables_do_not_hide_our_own_names():
    ours = {*_OWN, *sampling_params.NAMES, *sampling_params.SYNONYMS}
    ours |= draft_options.NAMES | draft_options.SYNONYMS.keys()
    assert not ours & CALL.keys()
    assert not set(inspect.signature(Engine.from_pretrained).parameters) & LOADING.keys()


def test_neutral_values_are_compared_strictly():
    assert is_neutral(1, (1.0,)) and is_neutral(None, ()) and is_neutral(False, (False,))
    assert not is_neutral(0, (False,)) and not is_neutral(True, (1,))
    assert not is_neutral(torch.ones(2), (1, True))


def test_long_values_are_not_printed(engine):
    with pytest.raises(InvalidArgument, match=r"^inputs_embeds is not supported"):
        engine.generate([1], inputs_embeds=torch.zeros(3, 8, 8))


def test_sampling_params_in_the_second_place(engine):
    """As vLLM's users write it, under vLLM's names too; and as those of transformers do."""
    want = engine.generate([1, 2], max_new_tokens=5, temperature=1.0, seed=3).token_ids
    params = SamplingParams(max_tokens=5, temperature=1.0, seed=3)
    assert params == SamplingParams(max_new_tokens=5, temperature=1.0, seed=3)
    assert engine.generate([1, 2], params).token_ids == want
    assert list(engine.stream([1, 2], params).run())[0].token_ids == want
    config = GenerationConfig(max_new_tokens=5, do_sample=True, top_k=0)
    assert engine.generate([1, 2], config, seed=3).token_ids == want
    two = engine.generate([1, 2], SamplingParams(n=2, temperature=1.0, stop="x", max_tokens=2))
    assert len(two) == 2


class Elsewhere:
    """Stands for vLLM's own class."""


@pytest.mark.parametrize(
    ("settings", "kwargs", "message"),
    [
        (Elsewhere(), {}, r"Elsewhere: give a specdec.SamplingParams"),
        ({"max_tokens": 3}, {}, r"builtins.dict: give a specdec.SamplingParams"),
        (SamplingParams(), {"top_k": 3}, "top_k"),
        (GenerationConfig(), {"generation_config": GenerationConfig()}, "given twice"),
    ],
)
def test_other_objects_in_the_second_place(engine, settings, kwargs, message):
    with pytest.raises(InvalidArgument, match=message):
        engine.generate([1, 2], settings, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_token": 5}, "did you mean 'max_tokens'"),
        ({"max_tokens": 5, "max_new_tokens": 5}, "mean the same"),
        ({"logprobs": 3}, "logprobs=3 is not supported"),
        ({"max_new_tokens": 5, "max_length": 9}, "give one of them"),
        ({"min_new_tokens": 5, "min_length": 9}, "give one of them"),
        ({"min_length": 10, "max_length": 9}, "exceeds"),
        ({"max_time": -1}, "max_time=-1"),
    ],
)
def test_constructor_says_what_is_wrong(kwargs, message):
    with pytest.raises(InvalidArgument, match=message):
        SamplingParams(**kwargs)
    assert "max_new_tokens" in inspect.signature(SamplingParams).parameters


@pytest.mark.parametrize("name", ["prompts", "inputs", "messages", "inputs_embeds"])
def test_prompts_under_other_names(engine, name):
    with pytest.raises(InvalidArgument, match=rf"^{name}=\['x'\] is not supported"):
        engine.generate(**{name: ["x"]})


def test_none_is_not_given(engine):
    want = engine.generate([1, 2], max_new_tokens=5).token_ids
    for kwargs in (
        {"max_tokens": None, "max_new_tokens": 5},
        {"max_new_tokens": 5, "max_tokens": None},
        {"max_new_tokens": 5, "n": None, "stop": None, "num_draft_tokens": None, "view": None},
    ):
        assert engine.generate([1, 2], **kwargs).token_ids == want
    params = SamplingParams(max_tokens=None, max_new_tokens=5, n=None, stop=None)
    assert params == SamplingParams(max_new_tokens=5)


def test_what_a_tokenizer_returns_may_be_spread_out(engine):
    ids = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]])
    mask = (ids > 0).long()
    want = engine.generate([[5, 6], [1, 2, 3, 4]], max_new_tokens=4)
    for got in (
        engine.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4),
        engine.generate(ids, attention_mask=mask, max_new_tokens=4),
        engine.generate({"input_ids": ids, "attention_mask": mask}, max_new_tokens=4),
    ):
        assert [g.token_ids for g in got] == [w.token_ids for w in want]


@pytest.mark.parametrize("drafter", ["none", "ngram", hostile.RandomTrees], ids=str)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_length": 12},
        {"max_length": 15, "min_length": 9, "eos_token_id": list(range(0, 40, 3))},
        {"max_new_tokens": 9, "prefix_allowed_tokens_fn": lambda row, ids: [row + 7, len(ids[3:])]},
    ],
    ids=lambda kwargs: "+".join(kwargs),
)
def test_lengths_and_allowed_tokens_are_those_of_transformers(engine, kwargs, drafter):
    ours = engine.generate([[4, 5, 6], [7, 8, 9]], drafter=drafter, **kwargs)
    stock = models.build("llama")  # the engine's model is driven by us
    ids = torch.tensor([[4, 5, 6], [7, 8, 9]])
    theirs = stock.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=39, **kwargs
    )
    for got, row in zip(ours, theirs[:, 3:].tolist(), strict=True):
        assert got.token_ids == row[: len(got.token_ids)]
        assert set(row[len(got.token_ids) :]) <= {39}


def test_max_length_counts_the_prompt(engine):
    assert len(engine.generate([1, 2, 3], max_length=4).token_ids) == 1
    with pytest.raises(PromptTooLong, match="prompt 1 has 4 tokens, and max_length=4"):
        engine.generate([[1], [1, 2, 3, 4]], max_length=4)


def test_max_time_ends_the_text(engine):
    out = engine.generate([1, 2, 3], max_new_tokens=50, max_time=0.0)
    assert len(out.token_ids) == 1 and out.finish_reason == "stop"
    assert len(engine.generate([1, 2, 3], max_new_tokens=5, max_time=600.0).token_ids) == 5


@pytest.mark.parametrize("name", LOADING)
def test_foreign_settings_of_loading_are_told_what_they_are(name):
    with pytest.raises(InvalidArgument, match=rf"^{name}=3.25 is not supported: "):
        Engine.from_pretrained("there/is-no-such-model", **{name: 3.25})


def test_loading_in_the_words_of_transformers(tmp_path):
    models.build("llama", dtype=torch.float32).save_pretrained(tmp_path)
    engine = Engine.from_pretrained(
        tmp_path, torch_dtype=torch.float64, use_safetensors=True, load_in_4bit=False
    )
    assert engine.dtype == torch.float64
    with pytest.raises(InvalidArgument, match="mean the same"):
        Engine.from_pretrained(tmp_path, torch_dtype="float32", dtype="float64")
    with pytest.raises(InvalidArgument, match="did you mean 'device_map'"):
        Engine.from_pretrained(tmp_path, device_maps="auto")


def test_local_files_only_asks_nobody(tmp_path, monkeypatch):
    """A model in the hub's cache loads, one that is not there is an error, and no line is used."""
    import socket

    folder = tmp_path / "models--me--tiny" / "snapshots" / "0123456789"
    models.build("llama", dtype=torch.float32).save_pretrained(folder)
    hostile.tokenizer(models.VOCAB).save_pretrained(folder)
    refs = tmp_path / "models--me--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123456789")
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *args: asked.append(args))
    engine = Engine.from_pretrained("me/tiny", local_files_only=True)
    assert engine.generate([1, 2], max_new_tokens=3).token_ids and engine.tokenizer is not None
    with pytest.raises(WeightsError, match="local_files_only"):
        Engine.from_pretrained("me/other", local_files_only=True)
    assert not asked
