"""`specdec bench rounding`: its figures against transformers' own, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.bench import rounding
from specdec.errors import InvalidArgument
from specdec.loading.loader import load

from helpers import letters
from helpers.command import run
from helpers.stored_gguf import VOCAB, write_gguf

TEXT = torch.randint(0, VOCAB, (900,), generator=torch.Generator().manual_seed(2)).tolist()
N = 200  # of which figures are made


def test_figures_are_those_of_the_two_models(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "Q4_K", {"token_embd.weight": "Q6_K"}, context=1024)
    rounded, exact = (
        Engine.from_pretrained(path, device="cpu", activations=kind) for kind in ("int8", "float32")
    )
    found = rounding.profile_rounding(rounded, exact, TEXT, N, 3, 8)
    stock = load(path, dtype=torch.float32).model
    with torch.inference_mode():
        law = stock(torch.tensor([TEXT[:N]])).logits[0, :-1].double().log_softmax(-1)
    wanted = float(torch.exp(-law[torch.arange(N - 1), torch.tensor(TEXT[1:N])].mean()))
    assert found["tokens"] == N - 1 and found["texts"] == 3
    assert found["perplexity"]["float32"] == pytest.approx(wanted, rel=1e-4)
    assert math.log(found["perplexity"]["int8"]) == pytest.approx(math.log(wanted), rel=0.05)
    assert found["perplexity"]["int8"] != found["perplexity"]["float32"]
    assert 0.5 < found["same_argmax"] <= 1 and found["divergence"] > 0
    with pytest.raises(InvalidArgument, match="nothing is rounded"):
        rounding.profile_rounding(exact, exact, TEXT, 10, 0, 1)
    with pytest.raises(InvalidArgument, match="--tokens 5000"):
        rounding.profile_rounding(rounded, exact, TEXT, 5000, 0, 1)


def test_a_file_that_is_not_quantised_is_refused(tmp_path: Path) -> None:
    folder = letters.save(tmp_path / "letters")
    result = run("bench", "rounding", "-m", folder, "--tokens", "20")
    assert result.exit_code == 2 and "nothing is rounded" in result.output
