"""What is seen of results and engines: printed, in a notebook, as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import specdec
from specdec import Engine

from helpers import hostile, models

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB), name="tiny")


def test_printing_a_text_shows_it_with_one_line_of_figures(engine):
    out = engine.generate([1, 2, 3], max_new_tokens=64, temperature=1.0, seed=4)
    text, line = str(out).rsplit("\n", 1)
    assert text == out.text
    assert line.startswith("[64 tokens (length), drafter auto, ") and line.endswith("seed 4]")
    assert "lossless" not in line
    assert repr(out) == f"Generation({out.text[:60] + '...'!r}, 64 tokens, 'length')"
    short = engine.generate([1, 2, 3], max_new_tokens=2)
    assert repr(short) == f"Generation({short.text!r}, 2 tokens, 'length')"
    assert "seed" not in str(short)
    part = engine.generate([1] * 200, max_new_tokens=2, view="streaming", budget=96)
    assert "not lossless" in str(part)


@pytest.mark.parametrize("drafter", ["auto", "none", "ngram", "triforce"])
def test_results_are_json(engine, drafter):
    out = engine.generate([1, 2, 3], max_new_tokens=9, drafter=drafter, temperature=1.0)
    read = json.loads(json.dumps(out.to_dict()))
    assert read == out.to_dict()
    for name in ("text", "token_ids", "finish_reason", "drafter", "acceptance", "view", "lossless",
                 "seed", "prompt_index", "sample_index"):  # fmt: skip
        assert read[name] == getattr(out, name)
    assert read["prompt_tokens"] == out.num_prompt_tokens == 3
    assert read["stats"]["num_tokens"] == 9


def test_an_engine_says_what_it_is(engine):
    assert repr(engine) == "Engine('tiny', float64 on cpu)"


def test_the_package_shows_its_public_names():
    assert dir(specdec) == sorted(specdec.__all__)
    assert {"Engine", "SamplingParams", "TokenTree", "hf", "__version__"} <= set(dir(specdec))
    assert all(getattr(specdec, name) is not None for name in dir(specdec))
    code = "import specdec, sys; dir(specdec); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
