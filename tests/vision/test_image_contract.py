"""What every drafter signs for text, for prompts with images: the same text under every setting."""

from __future__ import annotations

import pytest

from specdec import Engine
from specdec.errors import UnsupportedModel
from specdec.sampling.params import SamplingParams

from helpers import contract, longspec_models, models, vision
from helpers.matrix import crossed

NEW = 10
NAMES = ["llava", "gemma3", "qwen2.5-vl", "qwen3-vl"]


@pytest.fixture(scope="module")
def plain_of(pair_of):
    """Prompts of a model, and what plain decoding makes of them under some control."""
    known = {}

    def get(name, controls):
        if (name, controls) not in known:
            engine = pair_of(name).engine
            rows = [vision.inputs(name, 1), vision.inputs(name, 2, images=(1, 0))]
            rows.append(vision.inputs(name, 3, images=()))
            out = engine.generate(
                rows, drafter="none", **{"max_new_tokens": NEW, **contract.CONTROLS[controls]}
            )
            known[name, controls] = engine, rows, contract.outcome(out)
        return known[name, controls]

    return get


@crossed(together=1, drafter=list(contract.DRAFTERS), controls=list(contract.CONTROLS), name=NAMES)
def test_coupled_text_is_plain_decodings(plain_of, drafter, controls, name):
    engine, rows, wanted = plain_of(name, controls)
    options = {"max_new_tokens": NEW, **contract.CONTROLS[controls], **contract.DRAFTERS[drafter]}
    if options.get("draft_model") == contract.OURS or drafter.startswith(
        ("model", "ngram+model", "cascade")
    ):
        options["draft_model"] = models.build("llama", 5)  # it sees the text alone
    assert contract.outcome(engine.generate(rows, **options)) == wanted


BRANCHES = ["prune", "pool", "convolution", "resampler", "text", "gate"]


@crossed(together=1, branch=BRANCHES, controls=list(contract.CONTROLS), name=NAMES)
def test_every_branch_of_specvlm_writes_plain_decodings_text(plain_of, branch, controls, name):
    """A row with one image, one with two of different sizes, and one of text."""
    engine, rows, wanted = plain_of(name, controls)
    options = {"max_new_tokens": NEW, **contract.CONTROLS[controls]}
    drafter = longspec_models.by(branch)
    if name.startswith("qwen") and branch in ("pool", "convolution", "resampler"):
        with pytest.raises(UnsupportedModel, match="image_branch='prune'"):
            engine.generate(rows, drafter=drafter, **options)
        return
    assert contract.outcome(engine.generate(rows, drafter=drafter, **options)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_rejection_draws_what_it_drew(plain_of, name):
    engine, rows, _ = plain_of(name, "sampled")
    how = {"acceptance": "rejection", "temperature": 1.0, "seed": 3, "max_new_tokens": NEW}
    for drafter in ("ngram", "streaming"):
        options = {} if drafter == "ngram" else {"budget": 24, "sink": 2, "recent": 3}
        first, second = (
            contract.outcome(engine.generate(rows, drafter=drafter, **how, **options))
            for _ in range(2)
        )
        assert first == second


def test_fused_layers_read_images_too():
    """In float32, with packed weights: features for layers, runs of layers, views and trees."""
    for name in ("llava", "qwen3-vl"):
        model = vision.build(name, seed=1).float()
        engine = Engine(model)
        row = vision.inputs(name, 1, images=(0, 1))
        row["pixel_values"] = row["pixel_values"].float()
        params = SamplingParams(max_new_tokens=NEW, ignore_eos=True)
        twin = vision.build(name, seed=1).float()
        out = twin.generate(**row, max_new_tokens=NEW, do_sample=False)
        wanted = out[0, row["input_ids"].shape[1] :].tolist()
        for drafter, options in (
            ("none", {}), ("auto", {}), ("ngram", {"draft_width": 2}),
            ("visual-prune", {"budget": 24, "sink": 2, "recent": 3}),
            ("quest", {"budget": 40, "sink": 2, "recent": 3}),
        ):  # fmt: skip
            (found,) = engine.generate(row, params, drafter=drafter, **options)
            assert found.token_ids == wanted, (name, drafter)
