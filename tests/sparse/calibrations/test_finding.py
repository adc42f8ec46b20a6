"""Where a calibration comes from: the package, the cache folder, a file, or it is measured now."""

from __future__ import annotations

import json
from unittest.mock import patch

import pytest
import torch
from safetensors import safe_open

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.sparse.calibrations import finding, retaining_training
from specdec.sparse.calibrations.calibration import FORMAT
from specdec.sparse.calibrations.finding import (
    MEASURES,
    calibration_of,
    measured,
    retaining_heads_of,
    sample,
)
from specdec.sparse.calibrations.retaining_heads import retained

from helpers import models


@pytest.fixture(scope="module")
def target():
    return Engine(models.build("llama", dtype=torch.float32)).target


@pytest.mark.parametrize("method", sorted(MEASURES))
def test_it_is_measured_once_and_kept(target, tmp_path, monkeypatch, method):
    monkeypatch.setattr(finding, "cache_root", lambda: tmp_path)
    made = calibration_of(target, method, "auto")
    assert list(tmp_path.rglob(f"{method}.json"))
    with patch.dict(MEASURES, {method: None}):  # whatever is called would fail
        assert calibration_of(target, method, "auto").layers == made.layers
    assert calibration_of(target, method, made) is made


def test_a_model_without_a_tokenizer_reads_random_tokens(target):
    text = sample(target, None)
    assert text.name == "random tokens"
    assert {0 <= t < target.vocab_size for t in text.tokens} == {True}
    nothing = sample(target, lambda words: {"input_ids": []})
    assert nothing.tokens == text.tokens
    read = sample(target, lambda words: {"input_ids": [1] * len(words)}, "ab" * 50, "mine")
    assert (read.tokens, read.name) == ([1] * 100, "mine")
    with pytest.raises(InvalidArgument, match="mine has 3 tokens: give 64 or more"):
        sample(target, lambda words: {"input_ids": [1] * len(words)}, "abc", "mine")


def test_retaining_heads_are_trained_and_kept(target, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(retaining_training, "STEPS", 3)
    heads = retaining_heads_of(target, "auto")
    assert [x[0].shape for x in heads.layers if x] == [(64, 32)] * 2
    monkeypatch.setattr(retaining_training, "STEPS", None)  # whoever trains anew would fail
    assert retaining_heads_of(target, "auto").layers[0][0].equal(heads.layers[0][0])
    assert retaining_heads_of(target, heads) is heads


def test_retaining_heads_learn(monkeypatch):
    """From features that say it, most of what varies in a label is foretold."""
    draw = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 600, 12, generator=draw)
    y = torch.stack([x[..., 0].abs(), 2 * x[..., 1] - 5], dim=-1)
    w1, w2 = retaining_training.fit([(x[0], y[0]), (x[1], y[1])])
    left = (retained(x, w1, w2) - y).square().mean((0, 1)) / y.flatten(0, 1).var(dim=0)
    assert left.max() < 0.2


def test_unknown_methods_are_named(target):
    with pytest.raises(InvalidArgument, match="did you mean 'razor'"):
        measured(target, "razer", sample(target, None))


def test_what_is_shipped_is_whole():
    files = sorted(finding.SHIPPED.glob("*/*.json"))
    assert {file.stem for file in files} == set(MEASURES)
    for file in files:
        document = json.loads(file.read_text())
        assert document["format"] == FORMAT
        assert document["method"] == file.stem
        assert document["fingerprint"] == file.parent.name
        assert len(document["layers"]) == 30
        assert all(layer for layer in document["layers"])
    for file in finding.SHIPPED.glob("*/*.safetensors"):
        with safe_open(file, "pt") as held:
            assert json.loads(held.metadata()["specdec"])["fingerprint"] == file.parent.name
            assert len(list(held.keys())) == 60
