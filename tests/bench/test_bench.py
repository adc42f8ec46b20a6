"""The benchmark: what it counts, what it writes, what it refuses, and that Ctrl-C keeps results."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from specdec import Engine
from specdec.bench import llama_cpp, runner
from specdec.bench.contestants import Stopwatch
from specdec.bench.report import files
from specdec.bench.report.compare import compare, differences
from specdec.bench.report.measurement import ROUND, agreement, average, contract, loops
from specdec.bench.report.tables import markdown
from specdec.bench.suites import workloads_of
from specdec.bench.workloads import Workload
from specdec.cli.app import app
from specdec.errors import InvalidArgument

from helpers import letters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return letters.save(tmp_path_factory.mktemp("bench") / "letters")


@pytest.fixture(scope="module")
def engine(folder: str) -> Engine:
    return Engine.from_pretrained(folder)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


@pytest.fixture(scope="module")
def measured(folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole run: our drafters, transformers, greedy and sampled, and all its files."""
    out = tmp_path_factory.mktemp("out")
    text = out / "abc.txt"
    text.write_text("abcdefg hijk. " * 40)
    result = run(
        "run", "-m", folder, "--suite", "long", "--contexts", "60", "-f", str(text), "-n", "24",
        "-d", "auto,ngram:num_draft_tokens=3", "--baselines", "hf,hf-pld", "-t", "0,1",
        "--repeats", "2", "--out", str(out), "--dtype", "float64",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out, result


def test_a_run_measures_everyone_and_compares_texts(measured: tuple[Path, Any]) -> None:
    document = files.read(measured[0])
    assert document["finished"] and document["suite"] == "long" and not document["skipped"]
    assert [row["workload"] for row in document["workloads"]] == [
        "code @ 60", "code @ 60, T=1", "prose @ 60", "prose @ 60, T=1", "abc @ 60", "abc @ 60, T=1",
    ]  # fmt: skip
    for row in document["workloads"]:
        cells = row["contestants"]
        assert list(cells) == ["plain", "auto", "ngram:num_draft_tokens=3", "hf", "hf-pld"]
        assert row["prompt_tokens"] == 60 and row["new_tokens"] == 24
        for name, cell in cells.items():
            assert len(cell["all_tokens_per_s"]) == 2 and cell["tokens_per_s"] > 0
            if not name.startswith("hf") or not row["temperature"]:
                assert cell["tokens_equal_to_plain"] == 24
            for rounds in cell.get("rounds", ()):
                figures = [dict(zip(ROUND, entry, strict=True)) for entry in rounds]
                assert sum(f["emitted"] for f in figures) == 24
                assert all(f["accepted"] <= f["nodes"] for f in figures)
                assert all(f["whole_s"] >= f["draft_s"] + f["verify_s"] - 1e-5 for f in figures)
        assert all(cell["stats"]["num_draft_tokens"] == 0 for cell in [cells["plain"]])


def test_a_run_writes_tables_pictures_and_a_report(measured: tuple[Path, Any]) -> None:
    out, result = measured
    names = {path.name for path in out.iterdir()}
    assert {"result.json", "result.md", "report.html", "speedup.png", "rounds.png"} <= names
    table = (out / "result.md").read_text()
    assert "| abc @ 60, T=1 |" in table and "24/24" in table and "acceptance" in table
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(out.glob("*.png"))) >= 3
    assert "http" not in page.replace("http-equiv", "")
    assert "What auto chose" in page
    assert "abc @ 60" in result.stdout and "hf-pld" in result.stdout
    assert "auto is at least 0.98x plain" in result.stdout


@pytest.mark.parametrize("after", [1, 3, 5])
def test_ctrl_c_keeps_what_was_measured(engine: Engine, folder: str, after: int) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    plan = runner.Plan([Workload("a", "a", "abc", 8), Workload("b", "b", "bcd", 8)], repeats=2)
    document = runner.run(engine, folder, "quick", plan, ["ngram"], [], {}, interrupt)
    assert not document["finished"]
    runs = [c["all_tokens_per_s"] for row in document["workloads"]
            for c in row["contestants"].values() if "error" not in c]  # fmt: skip
    assert sum(map(len, runs)) == after and "INTERRUPTED" in markdown(document)


def test_the_time_limit_ends_after_a_whole_turn(engine: Engine, folder: str) -> None:
    plan = runner.Plan([Workload("a", "a", "abc", 8)], repeats=50, time_limit=0.0)
    document = runner.run(engine, folder, "quick", plan, [], [])
    assert document["finished"] and document["settings"]["repeats"] == 1


def test_what_does_not_fit_is_left_out_with_its_reason(engine: Engine, folder: str) -> None:
    plan = runner.Plan([Workload("a", "a", "a" * 600, 8), Workload("b", "b", "abc", 8)], repeats=1)
    document = runner.run(engine, folder, "quick", plan, [], [])
    assert [row["workload"] for row in document["workloads"]] == ["b"]
    assert "600 tokens" in document["skipped"]["a"]
    assert "left out: a" in markdown(document)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--suite", "quik"], "unknown suite 'quik': did you mean 'quick'"),
        (["--baselines", "vllm"], "unknown baseline 'vllm'"),
        (["-d", "ngrm"], "unknown drafter 'ngrm'"),
        (["--contexts", "60"], "has no use for --contexts"),
        (["--suite", "depth", "--contexts", "9999"], "does not fit"),
        (["--suite", "depth", "-f", "x"], "has no use for --prompt-file"),
        (["--suite", "spec-bench"], "needs --prompt-file"),
        (["--suite", "spec-bench", "-f", "missing.jsonl"], "cannot be read"),
        (["--suite", "ruler", "--contexts", "300"], "pip install"),
        (["--baselines", "hf-assisted"], "needs --draft-model"),
        (["--baselines", "llama.cpp"], "pip install"),
        (["--num-draft-tokens", "0"], "out of range"),
        (["-d", "ngram", "--budget", "99"], "has a use for budget"),
        (["-d", "ngram:num_draft_tokens"], "name:option=value"),
        (["-t", "warm"], "give numbers"),
    ],
)
def test_what_is_wrong_is_said(
    folder: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "long_context_eval" else find(n, *a)
    )
    if "--baselines" not in arguments:
        arguments = [*arguments, "--baselines", ""]
    result = run("run", "-m", folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_prompts_of_a_file_are_a_fair_sample_of_its_categories(tmp_path: Path) -> None:
    lines = [
        {"question_id": i, "category": "math" if i < 3 else "chat", "turns": [f"q{i}", "more"]}
        for i in range(5)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = workloads_of("spec-bench", None, 512, [file], limit=3)
    assert [w.name for w in found] == ["math 0", "chat 3", "math 1"]
    assert found[0].prompt == "q0" and found[0].summary == "math"
    file.write_text('{"category": "math"}')
    with pytest.raises(InvalidArgument, match="line 1"):
        workloads_of("spec-bench", None, 512, [file])


def test_depths_have_the_shape_of_llama_bench() -> None:
    names = [w.name for w in workloads_of("depth", None, 8192)]
    assert names[:3] == ["pp512", "tg128", "tg32 @ d512"] and names[-1] == "tg32 @ d7500"
    assert [w.name for w in workloads_of("depth", None, 8192, contexts=[700])][2:] == [
        "tg32 @ d700"
    ]


def test_loops_and_agreement() -> None:
    text = list(range(100))
    assert not loops(text) and loops(text + [1, 2, 3] * 20) and loops([5] * 60)
    assert not loops(text + [1, 2, 3] * 20 + [4])
    assert agreement([1, 2, 3], [1, 2, 4]) == 2 and agreement([1, 2], [1, 2, 3]) == 2


def test_a_stopwatch_counts_from_the_first_new_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    clock = iter([0.0, 1.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr("specdec.bench.contestants.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for shape in ((1, 7), (2,), (1,), (5,)):
        watch.put(torch.zeros(shape))
    assert watch.first_s == 3.0 and watch.tokens_per_s == 3.0


def document_of(speeds: dict[str, float], loops: bool = False) -> dict[str, Any]:
    cells = {
        name: {"tokens_per_s": speed, "spread": 0.0, "stats": {}, "rounds": []}
        for name, speed in speeds.items()
    }
    row = {"workload": "w", "contestants": cells, "loops": loops, "reads": False}
    machine = {"cpu": "a", "cores": 2, "gpu": None, "torch": "2", "transformers": "5"}
    return {"schema": 2, "suite": "quick", "model": "m", "dtype": "float32", "machine": machine,
            "workloads": [row]}  # fmt: skip


def test_the_contract_is_judged_honestly() -> None:
    assert contract(document_of({"plain": 10, "auto": 9.9, "ngram": 10})) == [
        "auto is at least 0.98x plain and 0.95x the best fixed drafter in 1 of 1 workloads."
    ]
    for missed in ({"plain": 10, "auto": 9.7}, {"plain": 10, "auto": 12, "ngram": 13}):
        head, line = contract(document_of(missed))
        assert "in 0 of 1" in head and line.startswith("w: auto is")
    assert contract(document_of({"plain": 1.0})) == []


def test_loops_are_left_out_of_averages() -> None:
    document = document_of({"plain": 1.0, "auto": 8.0}, loops=True)
    assert average(document, "auto", "plain") is None
    document["workloads"].append(document_of({"plain": 1.0, "auto": 2.0})["workloads"][0])
    assert average(document, "auto", "plain") == pytest.approx(2.0)


def test_comparison_finds_what_became_slower(tmp_path: Path) -> None:
    old = document_of({"plain": 10.0, "auto": 20.0, "ngram": 5.0})
    new = document_of({"plain": 10.3, "auto": 15.0, "hf": 3.0})
    assert [(c.name, c.verdict) for c in compare(old, new)] == [
        ("plain", "same"), ("auto", "slower"),
    ]  # fmt: skip
    noisy = copy.deepcopy(new)
    noisy["workloads"][0]["contestants"]["auto"]["spread"] = 0.6
    assert compare(old, noisy)[1].verdict == "same"
    new["machine"]["cores"] = 4
    assert differences(old, new) == ["cores: 2 / 4"] and differences(old, old) == []
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, document in zip(files, (old, new)):
        file.write_text(json.dumps(document))
    result = run("compare", *map(str, files))
    assert result.exit_code == 1 and "1 of 2 became slower" in result.stdout
    assert run("compare", str(files[0]), str(files[0])).exit_code == 0
    assert json.loads(run("compare", *map(str, files), "--json").stdout)["slower"] == 1
    (tmp_path / "c.json").write_text("{}")
    assert "no schema" in run("compare", str(files[0]), str(tmp_path / "c.json")).output
    with pytest.raises(InvalidArgument, match="in common"):
        compare(old, document_of({"x": 1.0}))


def test_a_gguf_is_written_as_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf
    from gguf.quants import dequantize, quantize

    monkeypatch.setattr(llama_cpp, "cache_root", lambda: tmp_path / "cache")
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    packed = quantize(values, gguf.GGMLQuantizationType.Q4_1)
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_tensor("w", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("norm", values[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = llama_cpp.float32_gguf(tmp_path / "small.gguf")
    reader = gguf.GGUFReader(file)
    tensors = {t.name: t for t in reader.tensors}
    assert all(t.tensor_type == gguf.GGMLQuantizationType.F32 for t in tensors.values())
    exact = dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    assert np.array_equal(tensors["w"].data, exact)
    assert np.array_equal(tensors["norm"].data, values[0])
    assert reader.fields["llama.context_length"].contents() == 128
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert reader.fields["general.file_type"].contents() == 0
    assert llama_cpp.float32_gguf(tmp_path / "small.gguf") == file  # from the cache
