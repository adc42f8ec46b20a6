"""The text for images is that of transformers' own generate, in every class, with any drafter."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from specdec import Engine, SamplingParams
from specdec.registry import DRAFTERS, VIEWS

from helpers import models, vision
from helpers.matrix import crossed
from helpers.methods import smallest

NEW = 10
CASES = [{}, {"images": (1, 0)}, {"images": ()}, {"images": (), "frames": 2}, {"frames": 2}]
NEEDS_MORE = {
    "longspec",
    "specvlm",
    "block",
    "cascade",
    "triforce",
    "cacheblend",
}  # a file or a draft model
DRAWN = [name for name in DRAFTERS if name not in NEEDS_MORE]


def rows_of(name):
    """One image, two of different sizes, text alone, a video, an image and a video."""
    takes = [case for case in CASES if "frames" not in case or name in vision.TAKES_VIDEO]
    return [vision.inputs(name, seed, **case) for seed, case in enumerate(takes)]


@crossed(together=1, name=list(vision.ARCHITECTURES), drafter=DRAWN)
def test_the_text_is_that_of_transformers(pair_of, name, drafter):
    pair = pair_of(name)
    rows = rows_of(name)
    wanted = [pair.text(row, NEW) for row in rows]
    options = {"draft_model": models.build("llama", 5)} if drafter == "model" else {}
    if drafter in VIEWS:
        options = smallest(drafter, pair.engine)
    found = pair.engine.generate(
        rows, max_new_tokens=NEW, ignore_eos=True, drafter=drafter, **options
    )
    assert [x.token_ids for x in found] == wanted
    assert len({tuple(text) for text in wanted}) == len(wanted)  # nobody answers blind


@pytest.mark.parametrize("name", vision.ARCHITECTURES)
def test_a_padded_batch_as_the_processor_returns_it(pair_of, name):
    pair = pair_of(name)
    rows = [vision.inputs(name, 1), vision.inputs(name, 2, images=(0, 1))]
    batch = vision.padded(rows)
    wanted = [pair.text(row, NEW) for row in rows]
    found = pair.engine.generate(**batch, max_new_tokens=NEW, ignore_eos=True)
    assert [x.token_ids for x in found] == wanted
    as_one = pair.engine.generate(batch, max_new_tokens=NEW, ignore_eos=True, drafter="ngram")
    assert [x.token_ids for x in as_one] == wanted


@pytest.mark.parametrize("name", ["llava-next", "gemma3", "qwen3-vl"])
def test_seeded_text_is_that_of_plain_decoding(pair_of, name):
    engine, rows = pair_of(name).engine, rows_of(name)
    how = SamplingParams(
        max_new_tokens=NEW, temperature=0.9, top_k=8, repetition_penalty=1.1, seed=4,
        num_return_sequences=2, ignore_eos=True,
    )  # fmt: skip
    plain = engine.generate(rows, how, drafter="none")
    drafted = engine.generate(rows, how, drafter="ngram+streaming", budget=24, sink=2, recent=3)
    assert [x.token_ids for x in plain] == [x.token_ids for x in drafted]
    alone = engine.generate(rows[0], how, drafter="quest", budget=64, sink=2, recent=3)
    assert [x.token_ids for x in alone] == [x.token_ids for x in plain[:2]]


@pytest.mark.parametrize("name", ["idefics3", "gemma3", "qwen2.5-vl", "qwen3-vl"])
def test_long_prompts_are_read_in_chunks(pair_of, name, monkeypatch):
    pair = pair_of(name)
    row = vision.inputs(name, 3, images=(0, 1, 0, 1))
    wanted = pair.text(row, NEW)
    for module in ("chunks", "target"):  # shorter than an image, but for those that are a whole
        where = __import__(f"specdec.model.{module}", fromlist=["x"])
        if hasattr(where, "PREFILL_CHUNK"):
            monkeypatch.setattr(where, "PREFILL_CHUNK", 5)
    found = pair.engine.generate(row, max_new_tokens=NEW, ignore_eos=True)
    assert [x.token_ids for x in found] == [wanted]


@pytest.mark.parametrize("name", ["llava", "idefics3", "qwen2-vl"])
def test_memory_elsewhere_and_saved_prompts(pair_of, name, tmp_path):
    pair = pair_of(name)
    row = vision.inputs(name, 3)
    wanted = pair.text(row, NEW)
    for tier in ("host", "disk"):
        other = Engine(pair.engine.model, kv_tier=tier, offload_folder=tmp_path / tier)
        assert other.generate(row, max_new_tokens=NEW, ignore_eos=True)[0].token_ids == wanted
    # a conversation that goes on with a second image, which is in the batch of the tower then
    pair.engine.save_prompt(cut(row, -3), tmp_path / "saved")
    again = pair.engine.generate(
        row, max_new_tokens=NEW, ignore_eos=True, saved_prompt=tmp_path / "saved"
    )
    assert again[0].token_ids == wanted
    two = vision.inputs(name, 3, images=(0, 1))
    found = pair.engine.generate(
        two, max_new_tokens=NEW, ignore_eos=True, saved_prompt=tmp_path / "saved"
    )
    assert found[0].token_ids == pair.text(two, NEW)


def cut(row, end):
    """The beginning of a prompt, which still holds all of its images."""
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
    return {key: x[:, :end] if key in names else x for key, x in row.items()}


@pytest.mark.parametrize("name", vision.ARCHITECTURES)
def test_prompts_are_told_apart_by_pixels(pair_of, name):
    from specdec.vision.reading import read_processed

    model = pair_of(name).engine.model

    def keys(**case):
        (prompt,) = read_processed(vision.inputs(name, **case), model)
        return prompt.keys

    one, same = keys(seed=1), keys(seed=1)
    assert one == same
    other = keys(seed=2)
    places = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    assert places and all(one[i] >= 1 << 62 for i in places)
    both = keys(seed=1, images=(0, 1))
    assert both[: len(one) - 3] == one[:-3]  # up to where another image follows


def test_a_model_is_as_it_was(pair_of):
    engine = pair_of("qwen2-vl").engine
    before = engine.model.config.vision_config._attn_implementation
    engine.generate(vision.inputs("qwen2-vl"), max_new_tokens=2)
    assert engine.model.config.vision_config._attn_implementation == before == "eager"
    assert engine.model.config.text_config._attn_implementation == "specdec"
    assert engine.model.model.rope_deltas is None
    assert not any(m._forward_pre_hooks for m in engine.model.modules())


def test_float32_layers_are_fused_and_the_tower_is_not_packed():
    model = vision.build("llava", seed=1).float()
    engine = Engine(model)
    if not engine.packing.linears:
        pytest.skip("no numba here")
    tower = set(engine.model.model.vision_tower.modules())
    assert tower.isdisjoint(engine.packing.linears)
    assert len(engine.packing.fused) == 3
    row = vision.inputs("llava", 1)
    row["pixel_values"] = row["pixel_values"].float()
    texts = [
        engine.generate(row, max_new_tokens=NEW, ignore_eos=True, drafter=drafter)[0].token_ids
        for drafter in ("none", "ngram")
    ]
    assert texts[0] == texts[1]
    twin = vision.build("llava", seed=1).float()
    out = twin.generate(**row, max_new_tokens=NEW, do_sample=False)
    assert texts[0] == out[0, row["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_long_prompt_with_images_is_read_in_chunks_with_a_bar(pair_of, name, monkeypatch):
    """The bar hears of every chunk, up to the last token that is read; the text stays the same."""
    pair, row, told = pair_of(name), vision.inputs(name, 3, images=(0, 1)), []
    wanted = pair.text(row, NEW)

    @contextmanager
    def shown(title, time_left=False):
        yield lambda done, total: told.append((done, total))

    monkeypatch.setattr("specdec.model.chunks.PREFILL_CHUNK", 20)
    monkeypatch.setattr("specdec.progress.LONG_PROMPT", 8)
    monkeypatch.setattr("specdec.progress.progress_bar", shown)
    found = pair.engine.generate(row, max_new_tokens=NEW, ignore_eos=True, drafter="none")
    assert [x.token_ids for x in found] == [wanted]
    done, totals = zip(*told, strict=True)
    read = row["input_ids"].shape[1] - 1
    assert len(done) >= read / 20 and sorted(set(done)) == list(done)
    assert set(totals) == {read} and done[-1] == read
