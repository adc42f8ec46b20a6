"""Which checkpoints LongSpec takes, and the one that ships."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from specdec import Engine
from specdec.drafts.longspec.checkpoint import Checkpoint, describe
from specdec.drafts.longspec.drafter import SHIPPED
from specdec.errors import InvalidArgument, WeightsError

from helpers import hostile, longspec_models, models


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture
def saved(llama, tmp_path):
    longspec_models.checkpoint(llama.target).save(tmp_path)
    return tmp_path


def test_another_target_is_refused_with_the_difference(saved):
    other = Engine(models.build("qwen3"))
    with pytest.raises(InvalidArgument, match="model_type is llama, this one's is qwen3"):
        other.generate([1, 2], drafter="longspec", draft_model=saved)
    other = Engine(models.build("llama", vocab_size=48))
    with pytest.raises(InvalidArgument, match="vocab_size is 40, this one's is 48"):
        other.generate([1, 2], drafter="longspec", draft_model=saved)
    other = Engine(models.build("llama", seed=1))
    with pytest.raises(InvalidArgument, match="other\\s+weights: their embeddings have a cosine"):
        other.generate([1, 2], drafter="longspec", draft_model=saved)


def test_the_same_target_in_fewer_bits_is_accepted(llama, saved):
    """Weights rounded to 5 bits, as a quantised copy of the model would have them."""
    rounded = models.build("llama")
    with torch.no_grad():
        for p in rounded.parameters():
            step = p.abs().max() / 16
            p.copy_((p / step).round() * step)
    Checkpoint.load(saved).check(Engine(rounded).target, "x")


def test_what_is_no_checkpoint_is_refused(llama, tmp_path):
    with pytest.raises(InvalidArgument, match="draft_model is a Llama.*takes a folder or hub id"):
        llama.generate([1], drafter="longspec", draft_model=models.build("llama"))
    models.build("llama").save_pretrained(tmp_path / "lm")
    with pytest.raises(InvalidArgument, match="holds a model of type 'llama', not a LongSpec"):
        llama.generate([1], drafter="longspec", draft_model=tmp_path / "lm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="cannot be read"):
        llama.generate([1], drafter="longspec", draft_model=tmp_path / "empty")
    longspec_models.checkpoint(llama.target).save(tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        llama.generate([1], drafter="longspec", draft_model=tmp_path / "cut")


def test_the_shipped_checkpoint_is_for_the_demo_model_only(llama):
    with pytest.raises(InvalidArgument, match="give it as draft_model=PATH"):
        llama.generate([1], drafter="longspec")


@pytest.mark.slow
@pytest.mark.weights
def test_the_shipped_checkpoint_drafts_for_the_demo_model():
    demo = Engine.from_pretrained("demo")
    prompt = [{"role": "user", "content": "Write a short story about a lighthouse."}]
    plain = demo.generate(prompt, drafter="none", max_new_tokens=32)
    out = demo.generate(prompt, drafter="longspec", draft_nodes=17, max_new_tokens=32)
    assert out.token_ids == plain.token_ids
    assert out.stats.num_accepted_draft_tokens >= 4  # a block that knows nothing has none


def test_the_shipped_checkpoint_is_small():
    files = list(SHIPPED.iterdir())
    assert {"config.json", "model.safetensors"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert Checkpoint.load(SHIPPED).block().sizes.window == 512


def test_a_checkpoint_survives_saving(llama, tmp_path):
    made = longspec_models.checkpoint(llama.target, torch.tensor([1, 5, 7]))
    made.save(tmp_path)
    again = Checkpoint.load(tmp_path)
    assert again.sizes == made.sizes and again.target == describe(llama.target)
    assert again.ids.tolist() == [1, 5, 7]
    for name, weight in made.weights.items():
        torch.testing.assert_close(again.weights[name], weight.bfloat16())
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "specdec-longspec"
    assert dataclasses.asdict(again.sizes)["window"] == longspec_models.WINDOW
