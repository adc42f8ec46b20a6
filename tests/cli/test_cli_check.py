"""`specdec check` finds what it should, and the parts it is made of."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from specdec.check import check, first_difference, top2_gap
from specdec.cli import prompts
from specdec.cli.random_draft import random_draft
from specdec.engine import Engine
from specdec.errors import InvalidArgument

from helpers import letters, models
from helpers.command import corrupt, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of letters with its tokenizer."""
    return letters.save(tmp_path_factory.mktemp("cli") / "letters")


def test_check_passes_and_says_what_it_compared(folder: str) -> None:
    result = run("check", "-m", folder, "-n", "20", "--limit", "2", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["num_prompts"] == 2
    assert report["num_tokens"] == {"greedy": 40, "coupled": 40}
    assert report["mean_acceptance_length"]["greedy"] >= 1.0
    shown = run(
        "check", "-m", folder, "-n", "20", "--limit", "1", "--draft-model", "random", "-t", "0"
    )
    assert "greedy: 1 prompts, 20 tokens" in shown.stdout
    assert "coupled" not in shown.stdout
    assert "drafter auto" in shown.stdout


def test_check_reports_the_first_divergence(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt(monkeypatch, position=3)
    result = run("check", "-m", folder, "-n", "8", "--limit", "1", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["divergences"]
    assert [(d["prompt"], d["mode"], d["position"]) for d in found] == [
        (0, "greedy", 3), (0, "coupled", 3),
    ]  # fmt: skip
    assert found[0]["plain_id"] == (found[0]["drafted_id"] - 1) % len(letters.LETTERS)
    assert letters.LETTERS[found[0]["plain_id"]] == found[0]["plain_text"]
    shown = run("check", "-m", folder, "-n", "8", "--limit", "1")
    assert "prompt 0, greedy, position 3" in shown.stdout
    assert "top-2 logit gap" in shown.stdout


def test_the_gap_is_that_of_transformers_own_forward() -> None:
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    with torch.inference_mode():
        logits = models.build("llama")(input_ids=torch.tensor([ids])).logits[0, -1]
    best = logits.topk(2).values
    gap = top2_gap(Engine(models.build("llama")), ids)
    assert gap == pytest.approx(float(best[0] - best[1]), rel=1e-4)
    assert top2_gap(Engine(models.build("llama")), ids[:1]) >= 0.0


def test_check_works_on_token_ids_without_a_tokenizer() -> None:
    engine = Engine(models.build("llama"))
    report = check(engine, [[1, 2, 3], [4, 5, 4, 5, 4]], max_new_tokens=10, drafter="ngram")
    assert report.ok
    assert report.num_tokens == {"greedy": 20, "coupled": 20}


def test_first_difference() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], []) is None


def test_prompt_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n\n{"turns": ["two", "more"]}\n{"text": "three"}\n')
    assert prompts.read_prompts(path, None) == ["one", "two", "three"]
    assert prompts.read_prompts(path, 2) == ["one", "two"]
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\ntwo\n")
    assert prompts.read_prompts(lines, None) == ["one", "two"]
    for content in ("{", '{"other": 1}', "[]", '{"turns": "x"', ""):
        path.write_text(content)
        with pytest.raises(InvalidArgument, match="prompts.jsonl"):
            prompts.read_prompts(path, None)


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_a_random_draft_model_can_be_made_of_any_kind(name: str) -> None:
    target = models.build(name)
    draft = random_draft(SimpleNamespace(model=target, device=target.device, dtype=target.dtype))
    assert type(draft) is type(target)
    assert draft.dtype == target.dtype
    assert draft.config.vocab_size == target.config.vocab_size
    assert draft(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()
