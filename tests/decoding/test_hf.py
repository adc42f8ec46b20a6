"""`model.generate(custom_generate=specdec.hf.generate)` against `model.generate`."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer, TextStreamer

import specdec
from specdec.errors import InvalidArgument, UnsupportedModel

from helpers import hostile, models
from helpers.adapter import IDS, MASK, both


@pytest.fixture(scope="module")
def model():
    model = models.build("llama", dtype=torch.float32)
    model.generation_config.pad_token_id = 0
    return model


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[3], [5, 6]]},
        {"prefix_allowed_tokens_fn": lambda row, ids: list(range(10 * row, 10 * row + 20))},
        {"min_new_tokens": 5, "eos_token_id": 9},
        {"eos_token_id": [9, 11, 13]},
        {"eos_token_id": [9, 999]},  # which no token is: transformers lets it be
        {"max_length": 12, "max_new_tokens": None},
        {"forced_eos_token_id": 3},
        {"exponential_decay_length_penalty": (3, 1.5), "eos_token_id": 9},
        {"begin_suppress_tokens": [9, 12]},
        {"num_return_sequences": 1},
    ],
    ids=lambda kwargs: "+".join(kwargs) or "greedy",
)
@pytest.mark.parametrize("drafter", ["ngram", hostile.RandomTrees], ids=["ngram", "random"])
def test_greedy_is_the_same(model, kwargs, drafter):
    stock, ours = both(model, drafter=drafter, do_sample=False, **kwargs)
    assert torch.equal(stock, ours)
    assert model.config._attn_implementation == "eager"


def test_model_of_another_kind_is_compared_first():
    """An architecture without a test of its own works, too, if its attention agrees with ours."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Olmo2Config(
        vocab_size=40, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    stock, ours = both(model, do_sample=False)
    assert torch.equal(stock, ours)
    assert model.config._attn_implementation == "sdpa"


def test_a_failing_call_leaves_the_model_as_it_was(model):
    class Failing(hostile.Hostile):
        def propose(self, rows, limits):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        both(model, drafter=Failing, do_sample=False)
    assert model.config._attn_implementation == "eager"
    model(input_ids=IDS)


def test_draft_model_and_acceptance(model):
    draft = models.disturbed(model, 0.03)
    stock = model.generate(IDS, attention_mask=MASK, max_new_tokens=20, do_sample=False)
    for kwargs in ({}, {"draft_width": 3}, {"acceptance": "rejection"}):
        ours = model.generate(
            IDS, attention_mask=MASK, max_new_tokens=20, do_sample=False,
            custom_generate=specdec.hf.generate, draft_model=draft, num_draft_tokens=5, **kwargs,
        )  # fmt: skip
        assert torch.equal(stock, ours)
    assert draft.config._attn_implementation == "eager"


def test_seeded_samples_do_not_depend_on_the_drafter(model):
    kwargs = dict(
        attention_mask=MASK, max_new_tokens=12, do_sample=True, top_k=0, num_return_sequences=2,
        custom_generate=specdec.hf.generate, seed=4,
    )  # fmt: skip
    plain = model.generate(IDS, drafter="none", **kwargs)
    assert torch.equal(plain, model.generate(IDS, drafter="ngram", **kwargs))
    assert torch.equal(plain, model.generate(IDS, drafter=hostile.RandomTrees, **kwargs))
    assert not torch.equal(plain[0], plain[1])
    assert plain.shape[0] == 4


def test_streamers(model, capsys):
    tokenizer = hostile.tokenizer(models.VOCAB)
    ids, mask = IDS[1:], MASK[1:]
    kwargs = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    want = tokenizer.decode(model.generate(ids, **kwargs)[0, 5:])
    kwargs |= {"custom_generate": specdec.hf.generate, "drafter": "ngram"}

    model.generate(ids, streamer=TextStreamer(tokenizer, skip_prompt=True), **kwargs)
    assert capsys.readouterr().out.strip() == want

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    thread = Thread(target=model.generate, args=(ids,), kwargs={"streamer": streamer, **kwargs})
    thread.start()
    assert "".join(streamer) == want
    thread.join()


def test_engine_streamer(capsys):
    tokenizer = hostile.tokenizer(models.VOCAB)
    engine = specdec.Engine(models.build("llama"), tokenizer)
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    out = engine.generate([1, 2, 3], streamer=streamer, max_new_tokens=9, drafter=hostile.Bushy)
    assert capsys.readouterr().out.strip() == tokenizer.decode(out.token_ids)
    with pytest.raises(InvalidArgument, match="streamer takes one sequence"):
        engine.generate([[1], [2]], streamer=streamer)


def test_dict_output(model):
    stock, ours = both(model, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(stock.sequences, ours.sequences)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"drafter": "ngrm"}, "did you mean 'ngram'"),
        ({"drafter": "model"}, "needs draft_model="),
    ],
    ids=lambda x: "" if isinstance(x, str) else "+".join(x),
)
def test_what_is_impossible_raises(model, kwargs, message):
    with pytest.raises(InvalidArgument, match=message):
        both(model, **{"do_sample": False, **kwargs})


def test_padding_on_the_right_raises(model):
    with pytest.raises(InvalidArgument, match="padding_side"):
        both(model, mask=MASK.flip(1), do_sample=False)


def test_unsupported_model():
    import transformers

    config = transformers.MambaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModel):
        model.generate(IDS[:1], max_new_tokens=2, custom_generate=specdec.hf.generate)
