"""What the adapter understands of a call of `model.generate`, and what it refuses by name."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache, WatermarkingConfig

import specdec
from specdec.errors import InvalidArgument, PromptTooLong

from helpers import hostile, models
from helpers.adapter import IDS, MASK, both, characters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # transformers' own advice
ONE, ONE_MASK = IDS[1:], MASK[1:]
STATIC = StaticCache(models.ARCHITECTURES["llama"](), max_cache_len=64)


@pytest.fixture(scope="module")
def model():
    model = models.build("llama", dtype=torch.float32)
    model.generation_config.pad_token_id = 0
    return model


REFUSED = {
    "position_ids": torch.arange(5)[None] * 9,
    "inputs_embeds": torch.zeros(1, 5, 24),
    "labels": ONE,
    "past_key_values": DynamicCache(),
    "output_router_logits": True,
    "is_causal": False,
    "cu_seq_lens_q": torch.tensor([0, 5]),
    "negative_prompt_ids": ONE,
    "negative_prompt_attention_mask": ONE_MASK,
    "synced_gpus": True,
    "num_beams": 2,
    "guidance_scale": 1.5,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "assistant_early_exit": 1,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "dflash",
    "use_mtp": True,
    "is_assistant": True,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_named(model, name):
    before = copy.deepcopy(model.generation_config.to_dict())
    with pytest.raises(InvalidArgument, match=name):
        model.generate(
            ONE, attention_mask=ONE_MASK, max_new_tokens=4, do_sample=False,
            custom_generate=specdec.hf.generate, **{name: REFUSED[name]},
        )  # fmt: skip
    assert model.config._attn_implementation == "eager" and not model.training
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize("cache", [DynamicCache(), STATIC], ids=lambda cache: type(cache).__name__)
def test_a_callers_cache_is_not_filled_and_so_refused(model, cache):
    with pytest.raises(InvalidArgument, match="past_key_values"):
        model.generate(
            ONE, attention_mask=ONE_MASK, past_key_values=cache, max_new_tokens=2,
            custom_generate=specdec.hf.generate,
        )  # fmt: skip


@pytest.mark.parametrize(
    "kwargs",
    [
        {"position_ids": torch.tensor([[9, 9, 0, 1, 2], [0, 1, 2, 3, 4]])},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"logits_to_keep": 2},
        {"output_scores": False, "output_attentions": False, "num_beams": 1},
        {"early_stopping": True, "length_penalty": 2.0},
        {"past_key_values": None, "inputs_embeds": None, "synced_gpus": False},
        {"renormalize_logits": True, "remove_invalid_values": True},
        {"watermarking_config": {"bias": 3.0, "seeding_scheme": "selfhash"}},
        {"forced_bos_token_id": 7, "begin_suppress_tokens": [1, 2]},
        {"prefill_chunk_size": 2, "disable_compile": True},
        {"is_causal": True},
        {"min_length": 9, "eos_token_id": list(range(0, 40, 3))},
        {"min_length": 11, "max_length": 14, "max_new_tokens": None, "eos_token_id": [2, 39]},
        {"max_length": 7, "max_new_tokens": 9},
        {"max_new_tokens": 1},
    ],
    ids=lambda kwargs: "+".join(kwargs),
)
def test_what_changes_nothing_or_is_honoured(model, kwargs):
    stock, ours = both(model, do_sample=False, **kwargs)
    assert torch.equal(stock, ours)


def test_positions_of_one_row_stand_for_all(model):
    ids = IDS + 5
    stock, ours = both(model, ids, None, do_sample=False, position_ids=torch.arange(5)[None])
    assert torch.equal(stock, ours)
    with pytest.raises(InvalidArgument, match="position_ids"):  # they count the padding
        both(model, do_sample=False, position_ids=torch.arange(5)[None])
    with pytest.raises(InvalidArgument, match="position_ids"):
        both(model, ids, None, do_sample=False, position_ids=torch.tensor([[0, 1, 2, 3, 3]]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.flip(1), "padding_side"),
        (torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]), "padding_side"),
        (torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]), "padding_side"),
        (torch.tensor([[0, 0, 1, 1, 2], [1, 1, 1, 1, 1]]), "other values than 0 and 1"),
        (torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0], [1.0] * 5]), "other values than 0 and 1"),
        (MASK[:, :4], "shape"),
    ],
)  # fmt: skip
def test_masks_that_are_no_padding_on_the_left(model, mask, message):
    arguments = {"attention_mask": mask, "max_new_tokens": 2}
    is_whole = mask.shape == IDS.shape  # another shape may not get past transformers itself
    with pytest.raises(InvalidArgument if is_whole else Exception, match=message * is_whole):
        model.generate(IDS, custom_generate=specdec.hf.generate, **arguments)


def test_masks_of_every_dtype(model):
    for mask in (MASK.bool(), MASK.float(), MASK.int()):
        stock, ours = both(model, IDS, mask, do_sample=False)
        assert torch.equal(stock, ours)


@pytest.mark.parametrize("name", [n for n in vars(GenerationConfig()) if not n.startswith("_")])
def test_every_field_of_a_config_is_read_refused_or_harmless(model, name):
    """Set to something, each field leads to stock's text or to an error that names it."""
    values = {
        "bad_words_ids": [[3]], "begin_suppress_tokens": [2], "suppress_tokens": [2],
        "sequence_bias": [[[2], -9.0]], "eos_token_id": 39, "stop_strings": "x",
        "exponential_decay_length_penalty": (3, 1.5), "num_assistant_tokens_schedule": "heuristic",
        "cache_implementation": "static", "cache_config": {}, "speculation_type": "dflash",
        "watermarking_config": WatermarkingConfig(bias=4.0), "top_h": 0.5, "max_time": 600.0,
        "min_p": 0.5, "constraints": [], "force_words_ids": [[3]], "dola_layers": "high",
        "encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.5, "do_sample": False,
        "return_dict_in_generate": False, "transformers_version": "5.0.0", "max_length": 12,
        "compile_config": None, "repetition_penalty": 1.3, "assistant_ensemble_weight": 0.5,
        "temperature": 0.7, "guidance_scale": 1.7, "early_stopping": True, "pad_token_id": 5,
        "assistant_confidence_threshold": 0.2, "token_healing": False,
        "continuous_batching_config": None, "num_return_sequences": 1,
        "prompt_lookup_num_tokens": 3,
    }  # fmt: skip
    config = GenerationConfig(
        do_sample=False, max_new_tokens=None if name == "max_length" else 9, eos_token_id=38
    )
    setattr(config, name, values.get(name, 2))
    arguments = {"attention_mask": ONE_MASK, "generation_config": config}
    if name == "stop_strings":
        arguments["tokenizer"] = characters(models.VOCAB)
    try:
        ours = model.generate(ONE, custom_generate=specdec.hf.generate, **arguments)
    except InvalidArgument as error:
        assert name in str(error)
        return
    drafting = ("prompt_lookup_num_tokens", "use_mtp", "assistant_early_exit")
    if name not in drafting:
        assert torch.equal(model.generate(ONE, **arguments), ours)


@pytest.mark.parametrize("name", ["magic", "frequency_penalty", "stop_token_ids"])
def test_a_field_that_transformers_does_not_have_is_refused(model, name):
    """Of a later release, or one that only an engine reads."""
    config = GenerationConfig(max_new_tokens=4, **{name: 3})
    with pytest.raises(InvalidArgument, match=f"{name}=3 is not known"):
        model.generate(
            ONE, attention_mask=ONE_MASK, generation_config=config,
            custom_generate=specdec.hf.generate,
        )  # fmt: skip


@pytest.mark.parametrize("adapter", [specdec.hf.generate, partial(specdec.hf.generate, seed=1)])
def test_stop_strings_with_their_tokenizer(model, adapter):
    """transformers keeps the tokenizer of a callable to itself; it is found all the same."""
    tokenizer = characters(models.VOCAB)
    kwargs = {"attention_mask": ONE_MASK, "max_new_tokens": 12, "do_sample": False}
    text = tokenizer.decode(model.generate(ONE, **kwargs)[0, 5:])
    for stop in (text[4], text[2:5], [text[6:8], "never"]):
        given = {**kwargs, "stop_strings": stop, "tokenizer": tokenizer}
        stock = model.generate(ONE, **given)
        assert stock.shape[1] < 17
        assert torch.equal(stock, model.generate(ONE, custom_generate=adapter, **given))


def test_called_by_itself_it_calls_generate(model):
    kwargs = {"attention_mask": MASK, "max_new_tokens": 9, "do_sample": False, "eos_token_id": 9}
    stock = model.generate(IDS, **kwargs)
    assert torch.equal(stock, specdec.hf.generate(model, IDS, drafter="ngram", **kwargs))
    assert torch.equal(stock, specdec.hf.generate(model, input_ids=IDS, **kwargs))
    with pytest.raises(ValueError, match="num_draft_token"):
        specdec.hf.generate(model, IDS, num_draft_token=3, **kwargs)


@pytest.mark.parametrize("drafter", ["none", "ngram", hostile.RandomTrees, "model"], ids=str)
def test_as_many_tokens_as_transformers_or_an_error(drafter):
    """At, before and beyond the model's last position, whose token can still be chosen."""
    model = models.build("llama", dtype=torch.float32, max_position_embeddings=32)
    model.generation_config.pad_token_id = 0
    given = {"drafter": drafter, "do_sample": False}
    if drafter == "model":
        given["assistant_model"] = models.disturbed(model, 0.03)
    given["custom_generate"] = specdec.hf.generate
    for length in (20, 31, 32):
        ids = torch.randint(0, 40, (1, length), generator=torch.Generator().manual_seed(length))
        kwargs, room = {"attention_mask": torch.ones_like(ids)}, 33 - length
        stock = model.generate(ids, max_new_tokens=room, do_sample=False, **kwargs)
        ours = model.generate(ids, max_new_tokens=room, **given, **kwargs)
        assert torch.equal(stock, ours) and ours.shape[1] == 33
        with pytest.raises(InvalidArgument, match=f"{length} tokens.*max_new_tokens={room}"):
            model.generate(ids, max_new_tokens=16, **given, **kwargs)
    ids = torch.ones(1, 40, dtype=torch.int64)
    with pytest.raises(PromptTooLong, match="40 tokens"):
        model.generate(ids, max_new_tokens=1, **given)


def test_transformers_own_default_length_ends_at_the_last_position():
    model = models.build("llama", dtype=torch.float32, max_position_embeddings=32)
    stock, ours = both(model, torch.ones(1, 25, dtype=torch.int64), None, max_new_tokens=None)
    assert torch.equal(stock, ours) and ours.shape[1] == 32


def test_padding_takes_no_positions():
    """Of a batch the own length of each row counts, as transformers counts positions."""
    model = models.build("llama", dtype=torch.float32, max_position_embeddings=32)
    model.generation_config.pad_token_id = 0
    ids = torch.randint(1, 40, (2, 28))
    mask = torch.ones_like(ids)
    mask[:, :20] = 0
    stock, ours = both(model, ids, mask, do_sample=False, max_new_tokens=20)
    assert torch.equal(stock, ours)


def test_ended_rows_are_padded_as_by_transformers(model):
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    mask = torch.ones_like(ids)
    for kwargs in (
        {"eos_token_id": [2, 32, 17]},
        {"eos_token_id": [2, 32, 17], "pad_token_id": 3},
        {"eos_token_id": [17, 3, 2, 12], "pad_token_id": None},
    ):
        stock, ours = both(model, ids, mask, do_sample=False, **kwargs)
        assert torch.equal(stock, ours)


@pytest.mark.parametrize("name", ["stopping_criteria", "max_time", "stop_strings"])
def test_rows_that_cannot_be_padded_run_on_as_in_transformers(model, name):
    """Without an end token transformers writes on behind the end of a row, until all have ended."""

    def after_two(ids, scores, **kwargs):
        return torch.full((len(ids),), ids.shape[1] >= 7)

    value = {"stopping_criteria": [after_two], "max_time": 600.0, "stop_strings": "never"}[name]
    kwargs = {"do_sample": False, "max_new_tokens": 6, name: value}
    if name == "stop_strings":
        kwargs["tokenizer"] = characters(models.VOCAB)
    for how in ((), (ONE, ONE_MASK)):
        for eos in (None, 39):
            stock, ours = both(model, *how, eos_token_id=eos, **kwargs)
            assert torch.equal(stock, ours)


def test_dict_output_has_the_sequences_alone(model):
    stock, ours = both(model, do_sample=False, return_dict_in_generate=True)
    assert type(ours) is type(stock) and torch.equal(stock.sequences, ours.sequences)
    assert [n for n in ours if ours[n] is not None] == ["sequences"]


def test_streamers_get_what_transformers_gives_them(model):
    class Record:
        def __init__(self):
            self.got = []

        def put(self, value):
            self.got.append(value.tolist())

        def end(self):
            self.got.append("end")

    kwargs = {"attention_mask": ONE_MASK, "max_new_tokens": 9, "do_sample": False}
    stock, ours = Record(), Record()
    model.generate(ONE, streamer=stock, **kwargs)
    model.generate(
        ONE, streamer=ours, custom_generate=specdec.hf.generate, drafter=hostile.Bushy, **kwargs
    )
    assert stock.got == ours.got
