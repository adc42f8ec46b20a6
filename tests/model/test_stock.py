"""What ours is compared with decodes by our settings, whatever the model's files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedModel

from specdec import Engine
from specdec.bench import roster
from specdec.bench.contestants import HuggingFace, Ours, Run
from specdec.bench.report import tables as report
from specdec.bench.report.measurement import summarise
from specdec.bench.runner import Cell
from specdec.bench.workloads import Workload
from specdec.check import check
from specdec.model.stock import bare_config, stock_text

from helpers import letters, models
from helpers.adapter import characters
from helpers.command import run

# What `model.generate` takes from a model's files where a call leaves it open.
LOUD: list[dict[str, Any]] = [
    {"repetition_penalty": 3.0},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": [2, 39, 36, 32]},
    {"begin_suppress_tokens": [2]},
    {"sequence_bias": [[[7], 30.0]]},
    {"forced_eos_token_id": 5},
    {"max_length": 9, "min_new_tokens": 2},
    {"do_sample": True, "temperature": 2.0},
    {"num_beams": 3},
]


@pytest.fixture
def stock() -> PreTrainedModel:
    return models.build("llama")


@pytest.mark.parametrize("settings", LOUD, ids=lambda settings: "+".join(settings))
def test_a_generation_config_counts_for_none_of_both(
    stock: PreTrainedModel, settings: dict[str, Any]
) -> None:
    model = models.build("llama")
    for each in (model, stock):
        each.generation_config = GenerationConfig(**settings)
    config = stock.generation_config
    engine = Engine(model)
    report = check(engine, [[4, 5, 6, 7, 8]], max_new_tokens=12, temperature=0.0, stock=stock)
    assert report.ok, report.divergences
    assert stock.generation_config is config
    ours = Ours(engine, "plain", "none").run([4, 5, 6], 12, 0.0, 0)
    for options in ({}, {"prompt_lookup_num_tokens": 4}, {"assistant_model": model_of(settings)}):
        theirs = HuggingFace(stock, "hf", options).run([4, 5, 6], 12, 0.0, 0)
        assert theirs.token_ids == ours.token_ids and len(ours.token_ids) == 12
    assert stock.generation_config is config


def model_of(settings: dict[str, Any]) -> PreTrainedModel:
    model = models.build("llama")
    model.generation_config = GenerationConfig(**settings)
    return model


def test_ends_of_the_engine_are_those_of_both(stock: PreTrainedModel) -> None:
    """The engine's end tokens count, wherever it has them from."""
    model = models.build("llama")
    model.generation_config.eos_token_id = [36, 13]
    engine = Engine(model)
    want = engine.generate([4, 5, 6, 7, 8], max_new_tokens=12).token_ids
    assert len(want) == 5
    assert stock.generation_config.eos_token_id is None
    report = check(engine, [[4, 5, 6, 7, 8]], max_new_tokens=12, temperature=0.0, stock=stock)
    assert report.ok and report.num_tokens["greedy"] == 5


def test_texts_that_fill_all_positions_are_equally_long() -> None:
    engine = Engine(models.build("llama", max_position_embeddings=32))
    stock = models.build("llama", max_position_embeddings=32)
    prompts = [[1 + i % 30 for i in range(length)] for length in (20, 31, 32)]
    report = check(engine, prompts, max_new_tokens=16, temperature=0.0, stock=stock)
    assert report.ok and report.num_tokens["greedy"] == 13 + 2 + 1


def test_a_real_difference_is_still_found() -> None:
    engine, other = Engine(models.build("llama")), models.build("llama", seed=1)
    report = check(engine, [[4, 5, 6]], max_new_tokens=8, temperature=0.0, stock=other)
    assert [d.mode for d in report.divergences] == ["transformers"]


def test_a_prompt_may_begin_with_what_pads_elsewhere(stock: PreTrainedModel) -> None:
    """Token 0 pads with Gemma's tokenizers, and every prompt here has been read already."""
    tokenizer = characters(models.VOCAB)
    tokenizer.pad_token = "a"
    engine = Engine(models.build("llama"), tokenizer)
    assert check(engine, ["aab"], max_new_tokens=4, temperature=0.0, stock=stock).ok
    (ours,) = roster.ours(engine, ["ngram"], {})[1:]
    assert len(ours.run([0, 0, 1], 4, 0.0, 0).token_ids) == 4


def test_the_config_is_back_after_an_error(stock: PreTrainedModel) -> None:
    config = stock.generation_config
    with pytest.raises(ValueError, match="nonsense"):
        stock_text(stock, [1, 2], (), nonsense=3)
    assert stock.generation_config is config
    with bare_config(stock):
        assert stock.generation_config.eos_token_id is None
    assert stock.generation_config is config


def test_the_command_compares_a_folder_with_penalties(tmp_path: Path) -> None:
    folder = Path(letters.save(tmp_path / "letters"))
    settings = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "eos_token_id": 5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    result = run(
        "check", "-m", str(folder), "-n", "20", "--limit", "2", "-t", "0", "--transformers",
        "--dtype", "float64",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "transformers: 2 prompts" in result.stdout


def test_tokens_behind_the_end_are_marked() -> None:
    def row(tokens: list[int], ends: tuple[int, ...]) -> dict[str, Any]:
        cells = {"plain": Cell([Run(tokens, 10.0, 0.1)]), "hf": Cell([Run(tokens, 5.0, 0.1)])}
        return summarise(Workload("w", "a summary", "text"), 3, 0.0, cells, ends)

    assert row([1, 2, 9, 4], (9, 8))["ends_after"] == 2
    assert row([9, 2, 3, 4], (9,))["ends_after"] == 0
    assert row([1, 2, 3, 4], (9,))["ends_after"] is None and row([1, 2], ())["ends_after"] is None
    document = {"workloads": [row([1, 2, 9, 4], (9,)), row([1, 2, 3, 4], (9,))]}
    names = [line[0] for line in report.table(document)][1:3]
    assert names == ["w (end token after 2)", "w"]
    document |= {"skipped": {}}
    assert "1 of them go on behind the end" in report.notes(document)[0]
    del document["workloads"][0]["ends_after"]  # a file of an earlier version
    assert report.table(document)[1][0] == "w"
