"""Drafters in the adapter: every option, transformers' own names, and draft models kept."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers import GenerationConfig

import specdec
from specdec import hf
from specdec.adapter import lent_models
from specdec.decoding import drafting
from specdec.drafts.longspec.checkpoint import Checkpoint
from specdec.errors import InvalidArgument, VocabularyMismatch
from specdec.model.target import Target

from helpers import hostile, longspec_models, models
from helpers.adapter import IDS, MASK, characters

ONE, ONE_MASK = IDS[1:], MASK[1:]


@pytest.fixture(scope="module")
def model():
    model = models.build("llama", dtype=torch.float32)
    model.generation_config.pad_token_id = 0
    return model


@pytest.fixture(scope="module")
def want(model):
    """What transformers alone says."""
    return model.generate(ONE, attention_mask=ONE_MASK, max_new_tokens=9, do_sample=False)


@pytest.fixture
def requests(monkeypatch):
    """The requests of the adapter as they are run."""
    seen = []

    def make_drafter(target, request, draft):
        seen.append((request, draft))
        return drafting.make_drafter(target, request, draft)

    monkeypatch.setattr(hf, "make_drafter", make_drafter)
    return seen


def told(request, name):
    """What the drafters of a request are told; None where they have no such option."""
    methods = request.methods.drafters
    for method in (*methods, *(getattr(method, "on", None) for method in methods)):
        if method is not None and name in method.options():
            return getattr(method, name)
    return None


def run(model, **kwargs):
    return model.generate(
        ONE, custom_generate=specdec.hf.generate,
        **{"attention_mask": ONE_MASK, "max_new_tokens": 9, "do_sample": False, **kwargs},
    )  # fmt: skip


class Silent:
    """A streamer that shows nothing."""

    def put(self, value):
        pass

    def end(self):
        pass


OPTIONS = [
    ({"drafter": "ngram", "num_draft_tokens": 3}, "ngram", {"num_draft_tokens": 3}),
    ({"drafter": "ngram", "num_assistant_tokens": 20}, "ngram", {"num_draft_tokens": 20}),
    ({"num_speculative_tokens": 4}, "auto", {"num_draft_tokens": 4}),
    ({"prompt_lookup_num_tokens": 5}, "ngram", {"num_draft_tokens": 5}),
    (
        {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 1},
        "ngram",
        {"num_draft_tokens": 5, "max_ngram": 1, "min_ngram": 1},
    ),
    ({"drafter": "ngram", "min_ngram": 3, "max_ngram": 4}, "ngram", {"min_ngram": 3}),
    ({"drafter": "streaming", "budget": 128, "sink": 8}, "streaming", {"budget": 128, "sink": 8}),
    ({"drafter": "streaming", "draft_layers": 1}, "streaming", {"draft_layers": 1}),
    ({"drafter": "quest", "refresh": "pass", "recent": 16}, "quest", {"refresh": "pass"}),
    ({"drafter": "kivi", "kv_bits": 8, "kv_group": 32}, "kivi", {"kv_bits": 8, "kv_group": 32}),
    ({"drafter": "tidal", "anchors": (1,), "dense": (0,)}, "tidal", {"anchors": (1,)}),
]


@pytest.mark.parametrize(("kwargs", "drafter", "options"), OPTIONS, ids=str)
def test_options_under_every_name(model, want, requests, kwargs, drafter, options):
    assert torch.equal(want, run(model, **kwargs))
    ((request, _),) = requests
    assert request.drafter == drafter
    assert {name: told(request, name) for name in options} == options


MODELS = [
    ({}, "auto", {}),
    ({"drafter": "model", "draft_tree": "2-2"}, "model", {"draft_tree": (2, 2)}),
    ({"drafter": "ngram+model", "min_draft_prob": 0.2}, "ngram+model", {"min_draft_prob": 0.2}),
    ({"assistant_confidence_threshold": 0.4}, "auto", {"min_draft_prob": 0.4}),
    ({"drafter": "cascade", "num_assistant_tokens": 3}, "cascade", {"num_draft_tokens": 3}),
]


@pytest.mark.parametrize("name", ["draft_model", "assistant_model"])
@pytest.mark.parametrize(("kwargs", "drafter", "options"), MODELS, ids=str)
def test_an_assistant_is_a_draft_model(model, want, requests, name, kwargs, drafter, options):
    draft = models.disturbed(model, 0.03)
    draft.train()
    assert torch.equal(want, run(model, **{name: draft}, **kwargs))
    ((request, target),) = requests
    assert request.drafter == drafter and target.model is draft
    assert {name: told(request, name) for name in options} == options
    assert draft.config._attn_implementation == "eager" and draft.training


def test_settings_of_assisted_decoding_in_a_config(model, want, requests):
    """Taken where they have a use, as what they are there; transformers' defaults say nothing."""
    draft = models.disturbed(model, 0.03)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=9, num_assistant_tokens=4,
        assistant_confidence_threshold=0.3, num_assistant_tokens_schedule="heuristic",
    )  # fmt: skip
    for kwargs in ({"drafter": "model", "draft_model": draft}, {"drafter": "none"}, {}):
        assert torch.equal(want, run(model, generation_config=config, **kwargs))
    config.prompt_lookup_num_tokens = 6
    run(model, generation_config=config)
    run(model, generation_config=config, drafter="auto")
    got = [(r.drafter, told(r, "num_draft_tokens"), told(r, "min_draft_prob")) for r, _ in requests]
    assert got == [
        ("model", 4, 0.3), ("none", None, None), ("auto", 4, 0.3), ("ngram", 6, None),
        ("auto", 6, 0.3),
    ]  # fmt: skip


def test_settings_of_an_assistant_are_its_own_configs(model, want, requests):
    """Where transformers documents them; the call's own win."""
    draft = models.disturbed(model, 0.03)
    draft.generation_config.num_assistant_tokens = 3
    draft.generation_config.assistant_confidence_threshold = 0.25
    for kwargs in ({}, {"drafter": "model"}, {"num_assistant_tokens": 5}):
        assert torch.equal(want, run(model, assistant_model=draft, **kwargs))
    assert torch.equal(want, run(model, draft_model=draft))
    assert [told(request, "num_draft_tokens") for request, _ in requests] == [3, 3, 5, 3]
    assert {told(request, "min_draft_prob") for request, _ in requests} == {0.25}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"drafter": "ngrm"}, "did you mean 'ngram'"),
        ({"drafter": "model"}, "needs draft_model="),
        ({"drafter": "none", "num_draft_tokens": 3}, "no use for num_draft_tokens"),
        ({"drafter": "none", "num_assistant_tokens": 3}, "no use for num_assistant_tokens"),
        ({"drafter": "ngram", "budget": 64}, "no use for budget"),
        ({"num_draft_tokens": 3, "num_assistant_tokens": 4}, "mean the same"),
        ({"num_draft_tokens": 2.5}, "num_draft_tokens=2.5"),
        ({"acceptance": "couple"}, "did you mean 'coupled'"),
        ({"view": "ful"}, "did you mean 'full'"),
        ({"seed": -1}, "seed=-1"),
        ({"drafter": hostile.Bushy, "streamer": Silent(), "num_return_sequences": 2,
          "do_sample": True}, "streamer takes one sequence"),
    ],
)  # fmt: skip
def test_checks_are_those_of_the_engine(model, kwargs, message):
    with pytest.raises(InvalidArgument, match=message):
        run(model, **kwargs)
    assert model.config._attn_implementation == "eager"


def test_two_draft_models_are_one_too_many(model):
    draft = models.disturbed(model, 0.03)
    with pytest.raises(InvalidArgument, match="mean the same"):
        run(model, draft_model=draft, assistant_model=draft)


def test_a_lossy_view_is_taken_at_its_word(model):
    """A view= is honoured, not dropped: on one with few keys the text is another one."""
    ids = torch.randint(1, 40, (1, 150), generator=torch.Generator().manual_seed(0))
    kwargs = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    stock = model.generate(ids, **kwargs)
    kwargs |= {"custom_generate": specdec.hf.generate, "drafter": "none"}
    assert torch.equal(stock, model.generate(ids, **kwargs))
    assert not torch.equal(stock, model.generate(ids, view="streaming", budget=96, **kwargs))


class TestByName:
    """A draft model that is given as a folder."""

    @pytest.fixture
    def folder(self, model, tmp_path):
        models.disturbed(model, 0.03).save_pretrained(tmp_path)
        characters(models.VOCAB).save_pretrained(tmp_path)
        return tmp_path

    def test_it_is_loaded_once(self, model, want, requests, folder, monkeypatch):
        for _ in range(3):
            assert torch.equal(want, run(model, draft_model=folder))
        assert torch.equal(want, run(model, drafter="model", draft_model=str(folder)))
        assert len({id(draft) for _, draft in requests}) == 1
        assert requests[0][1].packing is not None
        other = models.build("llama", dtype=torch.float32)
        run(other, draft_model=folder)
        assert requests[-1][1] is not requests[0][1]  # each model has its own

    def test_another_dtype_has_another_copy(self, requests, folder):
        model = models.build("llama", dtype=torch.float32)
        run(model, draft_model=folder)
        run(model.double(), draft_model=folder)
        assert [draft.dtype for _, draft in requests] == [torch.float32, torch.float64]

    def test_it_goes_with_the_model(self, folder):
        model = models.build("llama", dtype=torch.float32)
        run(model, draft_model=folder)
        ((draft,),) = [
            [entry.target.model for entry in kept._drafts.values()]
            for owner, kept in lent_models._drafts.items()
            if owner is model
        ]
        gone = weakref.ref(model), weakref.ref(draft)
        del model, draft
        gc.collect()
        assert [ref() for ref in gone] == [None, None]

    def test_its_tokenizer_is_compared_with_the_one_given(self, model, want, folder):
        same, other = characters(models.VOCAB), hostile.tokenizer(models.VOCAB)
        assert torch.equal(want, run(model, draft_model=folder, tokenizer=same))
        for _ in range(2):  # also when it is known already
            with pytest.raises(VocabularyMismatch, match="does not share"):
                run(model, draft_model=folder, tokenizer=other)
        assert torch.equal(want, run(model, draft_model=folder, tokenizer=same))

    def test_of_a_loaded_model_it_has_to_be_given(self, model, want):
        draft = models.disturbed(model, 0.03)
        tokenizers = characters(models.VOCAB), hostile.tokenizer(models.VOCAB)
        with pytest.raises(VocabularyMismatch, match="does not share"):
            run(
                model, assistant_model=draft, tokenizer=tokenizers[0],
                assistant_tokenizer=tokenizers[1],
            )  # fmt: skip
        assert torch.equal(want, run(model, assistant_model=draft, tokenizer=tokenizers[0]))


def test_a_checkpoint_of_longspec_is_read_once(model, want, tmp_path, monkeypatch):
    target = Target(models.build("llama", dtype=torch.float32))
    longspec_models.checkpoint(target).save(tmp_path)
    read = []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda source: read.append(source) or load(source))
    for _ in range(3):
        assert torch.equal(want, run(model, drafter="longspec", draft_model=tmp_path))
    assert read == [tmp_path]


def test_nothing_is_none(model, want, requests):
    """A keyword that is None has not been given, under whatever name."""
    draft = models.disturbed(model, 0.03)
    kwargs = {"draft_model": None, "drafter": None, "num_draft_tokens": None, "seed": None}
    assert torch.equal(want, run(model, assistant_model=draft, num_assistant_tokens=3, **kwargs))
    ((request, target),) = requests
    assert target.model is draft
    assert (request.drafter, told(request, "num_draft_tokens")) == ("auto", 3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_after_an_error_the_model_is_as_it_was(implementation, training):
    class Failing(hostile.Hostile):
        def propose(self, rows, limits):
            raise RuntimeError("on purpose")

    model = models.build("llama", dtype=torch.float32).train(training)
    model.set_attn_implementation(implementation)
    model.model.layers[1].eval()
    model.config.use_cache = False
    settings = {name: module.training for name, module in model.named_modules()}
    before = model.config.to_dict(), model.generation_config.to_dict(), settings
    for kwargs in ({"drafter": Failing}, {"drafter": "ngrm"}, {"num_beams": 2}, {"labels": ONE}):
        with pytest.raises((RuntimeError, InvalidArgument)):
            run(model, **kwargs)
        settings = {name: module.training for name, module in model.named_modules()}
        assert before == (model.config.to_dict(), model.generation_config.to_dict(), settings)
        assert model.config._attn_implementation == implementation
    model(input_ids=ONE)
