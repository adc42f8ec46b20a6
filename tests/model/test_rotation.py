"""RoPE of every kind: how long a text may be, and what happens where rotation changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers as t

import specdec
from specdec import Engine
from specdec.forward.rotation import Rotation, max_positions
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes

from helpers import hostile, models

B = 24  # where rotation changes
LONG = {"short_factor": [1.0] * 4, "long_factor": [1.0, 4.0, 16.0, 32.0]}


def llama(rope, max_position_embeddings=64, **more):
    return config_of(t.LlamaConfig, rope, max_position_embeddings, num_hidden_layers=2, **more)


def config_of(kind, rope, max_position_embeddings, **more):
    small = {k: v for k, v in models._SMALL.items() if k != "max_position_embeddings"}
    if kind in (t.Phi3Config, t.PhimoeConfig):
        small |= {"hidden_size": 32, "num_attention_heads": 4}
        small.pop("head_dim")
    return kind(
        **{**small, **more}, max_position_embeddings=max_position_embeddings, rope_parameters=rope
    )


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 1e4, **more}


def gemma3(full, max_position_embeddings=64, sliding=None):
    nested = {"full_attention": full, "sliding_attention": sliding or rope("default")}
    return config_of(
        t.Gemma3TextConfig, nested, max_position_embeddings, num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8, query_pre_attn_scalar=8,
    )  # fmt: skip


def phi3(**more):
    return config_of(
        t.Phi3Config, rope("longrope", **LONG), 96, num_hidden_layers=2,
        original_max_position_embeddings=B, **more,
    )  # fmt: skip


# name -> (config, usable length, longest text before the rotation changes)
TABLE = {
    "default": (lambda: llama(rope("default")), 64, None),
    "linear": (lambda: llama(rope("linear", factor=2.5)), 160, None),
    "yarn": (
        lambda: llama(rope("yarn", factor=4.0, original_max_position_embeddings=64)), 256, None),
    "yarn of the stretched length": (
        lambda: llama(rope("yarn", factor=4.0, original_max_position_embeddings=16)), 64, None),
    "yarn of a shorter original": (
        lambda: llama(rope("yarn", factor=4.0, original_max_position_embeddings=32), 40),
        128, None),
    "llama3": (
        lambda: llama(rope("llama3", factor=8.0, original_max_position_embeddings=16,
                           low_freq_factor=1.0, high_freq_factor=4.0)), 64, None),
    "proportional": (lambda: llama(rope("proportional", partial_rotary_factor=0.5)), 64, None),
    "longrope": (
        lambda: llama(rope("longrope", original_max_position_embeddings=B, factor=4.0, **LONG), 96),
        96, B),
    "longrope without a factor": (
        lambda: llama(rope("longrope", original_max_position_embeddings=B, **LONG), 96), 96, B),
    "longrope of phi3, which reads anew": (phi3, 96, B),
    "dynamic": (lambda: llama(rope("dynamic", factor=3.0), B), 72, B),
    "phimoe, which reads anew": (
        lambda: config_of(
            t.PhimoeConfig,
            rope("longrope", original_max_position_embeddings=B, **LONG, short_mscale=1.1,
                 long_mscale=1.5, factor=4.0), 96,
            num_hidden_layers=2, num_local_experts=4, sliding_window=None),
        96, B),
    "olmo3, parameters of no layer type": (
        lambda: config_of(t.Olmo3Config, rope("dynamic", factor=3.0), B, num_hidden_layers=2),
        B, None),
    "gemma3, linear as stated": (lambda: gemma3(rope("linear", factor=8.0)), 64, None),
    "gemma3, yarn": (
        lambda: gemma3(rope("yarn", factor=4.0, original_max_position_embeddings=64)), 256, None),
    "gemma3, longrope": (
        lambda: gemma3(rope("longrope", original_max_position_embeddings=B, **LONG), 96), 96, B),
    "gemma3, dynamic": (lambda: gemma3(rope("dynamic", factor=2.0), B), 48, B),
    "gemma3, longrope of the windows": (
        lambda: gemma3(rope("default"), 96,
                       rope("longrope", original_max_position_embeddings=B, **LONG)), 96, B),
    "gemma3, two boundaries": (
        lambda: gemma3(rope("longrope", original_max_position_embeddings=B + 3, **LONG), 96,
                       rope("longrope", original_max_position_embeddings=B, **LONG)), 96, B),
}  # fmt: skip
CHANGES = [name for name, (_, _, change) in TABLE.items() if change]
INSIDE = ["inside llava: longrope of phi3, which reads anew", "inside llava: dynamic"]
LENGTHS = [B - 9, B, B + 1, B + 2]


@pytest.mark.parametrize("name", TABLE)
def test_limit_and_boundary(name):
    config, limit, change = TABLE[name]
    assert max_positions(config()) == limit
    assert Rotation.of(config()).first_change == change


def test_a_text_model_inside_another():
    inner = TABLE["longrope of phi3, which reads anew"][0]()
    outer = t.LlavaConfig(text_config=inner)
    assert Rotation.of(outer).first_change == Rotation.of(inner).first_change == B
    assert (Rotation.of(outer).anew, Rotation.of(inner).anew) == (None, B)
    outer = t.Gemma3Config(text_config=TABLE["gemma3, yarn"][0]().to_dict())
    assert max_positions(outer.get_text_config()) == 256


def test_old_spellings():
    """Of configurations that came with a model's own code."""
    old = SimpleNamespace(
        max_position_embeddings=4096, rope_scaling={"type": "dynamic", "factor": 2.0}
    )
    assert (max_positions(old), Rotation.of(old).moving) == (8192, 4096)
    old = SimpleNamespace(
        max_position_embeddings=131072, original_max_position_embeddings=4096,
        rope_scaling={"type": "su", **LONG},
    )  # fmt: skip
    assert (max_positions(old), Rotation.of(old).steps) == (131072, (4096,))
    assert Rotation.of(SimpleNamespace()).is_fixed


@pytest.mark.parametrize(
    ("rotation", "length", "limit"),
    [
        (Rotation(), 10, 9), (Rotation(steps=(12,)), 10, 2), (Rotation(steps=(12,)), 12, 0),
        (Rotation(steps=(12,)), 13, 9), (Rotation(steps=(12, 15)), 13, 2),
        (Rotation(moving=12), 11, 1), (Rotation(moving=12), 12, 0), (Rotation(moving=12), 13, 0),
    ],
)  # fmt: skip
def test_drafts_stop_where_it_changes(rotation, length, limit):
    assert rotation.limit(length, 9) == limit
    assert rotation.regime(length) == rotation.regime(length + limit)


VISION = t.CLIPVisionConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28,
    patch_size=14,
)  # fmt: skip


def model_of(name):
    torch.manual_seed(0)
    if name.startswith("inside llava: "):
        config = TABLE[name.removeprefix("inside llava: ")][0]()
        model = t.LlavaForConditionalGeneration(
            t.LlavaConfig(text_config=config, vision_config=VISION, image_token_index=39)
        )
    else:
        config = TABLE[name][0]()
        config._experts_implementation = "eager"
        model = t.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    model.generation_config.pad_token_id = 0
    return model.double().eval()


def prompts_of(lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 6, (n,), generator=generator).tolist() for n in lengths]


def stock(name, prompt, new):
    """transformers' text, by a model that has seen no other: dynamic NTK remembers them."""
    ids = torch.tensor([prompt])
    out = model_of(name).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new
    )
    return out[0, len(prompt) :].tolist()


def by_adapter(model, prompts, custom_generate=specdec.hf.generate, **kwargs):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, custom_generate=custom_generate, **kwargs
    )
    return out[:, width:].tolist()


DRAFTERS = {
    "none": {"drafter": "none"},
    "ngram": {"drafter": "ngram", "num_draft_tokens": 6, "draft_width": 2, "min_ngram": 1},
    "hostile": {"drafter": hostile.RandomTrees},
    "auto": {"drafter": "auto"},
}


@pytest.mark.parametrize("name", [*CHANGES, *INSIDE, "yarn", "gemma3, yarn", "linear"])
def test_text_is_that_of_transformers(name):
    """Across the change, for every drafter, alone and in a ragged batch."""
    prompts = prompts_of(LENGTHS if name in [*CHANGES, *INSIDE] else [60, 70])
    want = [stock(name, prompt, 14) for prompt in prompts]
    assert len({tuple(text) for text in want}) > 1
    engine = Engine(model_of(name))
    known = hostile.replay(want, wrong_every=4)
    for options in (*DRAFTERS.values(), {"drafter": known}):
        texts = [g.token_ids for g in engine.generate(prompts, max_new_tokens=14, **options)]
        assert texts == want, options
    for prompt, text in zip(prompts[::2], want[::2]):  # the others' passes have left nothing behind
        assert engine.generate(prompt, max_new_tokens=14, drafter="ngram").token_ids == text


@pytest.mark.parametrize("name", CHANGES)
def test_a_padded_batch_is_turned_by_its_longest_row(name):
    """As in transformers, also when that row has ended before the others."""
    for lengths, more in (([B - 9, B, B - 2], {}), ([B - 12, B + 3], {"eos_token_id": [1, 2, 3]})):
        prompts = prompts_of(lengths)
        want = by_adapter(model_of(name), prompts, None, max_new_tokens=14, **more)
        for drafter in ("none", "ngram", hostile.replay(want, wrong_every=4)):
            options = {"drafter": drafter}
            found = by_adapter(model_of(name), prompts, max_new_tokens=14, **more, **options)
            assert found == want, options


@pytest.mark.parametrize("name", CHANGES)
def test_the_adapter_leaves_the_rotation_as_it_was(name):
    prompts, model = prompts_of([B + 1]), model_of(name)
    want = [stock(name, prompts[0], 14)]
    assert by_adapter(model, prompts, max_new_tokens=14, drafter=hostile.RandomTrees) == want
    ids = torch.tensor(prompts)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=14
    )
    assert out[0, ids.shape[1] :].tolist() == want[0]


@pytest.mark.parametrize("name", CHANGES)
def test_samples_that_share_a_prompt(name):
    """Coupled texts of several samples, crossing the change, by every drafter and alone."""
    engine, (prompt,) = Engine(model_of(name)), prompts_of([B - 4])
    how = {"max_new_tokens": 14, "temperature": 0.7, "seed": 2}
    alone = engine.generate(prompt, drafter="none", **how).token_ids
    want = engine.generate([prompt] * 3, drafter="none", **how)
    assert want[0].token_ids == alone != want[1].token_ids
    for options in DRAFTERS.values():
        found = engine.generate(prompt, num_return_sequences=3, **how, **options)
        assert [g.token_ids for g in found] == [g.token_ids for g in want]


@pytest.mark.parametrize("name", ["dynamic", "longrope of phi3, which reads anew"])
def test_drafting_by_the_model_itself(name):
    """A draft model and a sparse view turn by their own passes; the text is the target's."""
    prompts = prompts_of([B - 9, B + 2])
    want = [stock(name, prompt, 14) for prompt in prompts]
    engine, draft = Engine(model_of(name)), models.disturbed(model_of(name), 0.02)
    for options in (
        {"drafter": "model", "draft_model": draft, "draft_width": 2},
        {"drafter": "cascade", "draft_model": draft},
        {"drafter": "streaming", "budget": 12, "sink": 2, "recent": 4},
        {"drafter": "triforce", "budget": 16},
    ):
        texts = [g.token_ids for g in engine.generate(prompts, max_new_tokens=14, **options)]
        assert texts == want, options


@pytest.mark.parametrize("name", ["longrope", "dynamic", "longrope of phi3, which reads anew"])
def test_chunks_tiers_and_saved_prompts(name, tmp_path, monkeypatch):
    """A prompt read in pieces, or kept elsewhere, is turned by its whole length, too."""
    monkeypatch.setattr("specdec.model.chunks.PREFILL_CHUNK", 8)
    prompts = prompts_of([B - 9, B + 12])
    want = [stock(name, prompt, 14) for prompt in prompts]
    engine = Engine(model_of(name))
    assert [g.token_ids for g in engine.generate(prompts, max_new_tokens=14)] == want
    engine.save_prompt(prompts[1][:20], tmp_path / "short")
    saved = engine.generate(prompts[1], max_new_tokens=14, saved_prompt=tmp_path / "short")
    assert saved.token_ids == want[1]
    engine.target.kv_memory = KVMemory("disk", sizes=Sizes(window=16, block=8, room=640))
    assert [g.token_ids for g in engine.generate(prompts, max_new_tokens=14)] == want
