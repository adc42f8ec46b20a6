"""The command line: what is printed where, exit codes, and `check` finding what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import letters
import models
import pytest
import torch
from typer.testing import CliRunner

from specdec import registry
from specdec.check import check, first_difference, top2_gap
from specdec.cli import prompts
from specdec.cli.app import app
from specdec.cli.console import harmless
from specdec.cli.random_draft import random_draft
from specdec.engine import Engine
from specdec.errors import InvalidArgument


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of letters with its tokenizer."""
    return letters.save(tmp_path_factory.mktemp("cli") / "letters")


def run(*arguments: str, stdin: str | None = None, **env: str) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin, env=env)


# --- generate --------------------------------------------------------------------------------


def test_json_is_one_object_and_nothing_else(folder: str) -> None:
    result = run("generate", "abc abc abc", "-m", folder, "-n", "12", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert set(answer) == {
        "text", "token_ids", "prompt_tokens", "finish_reason", "drafter", "acceptance",
        "lossless", "seed", "stats", "explanation",
    }  # fmt: skip
    assert answer["prompt_tokens"] == 11
    assert len(answer["token_ids"]) == len(answer["text"]) == 12
    assert answer["finish_reason"] == "length"
    assert answer["lossless"] is True
    assert answer["stats"]["num_tokens"] == 12
    plain = run("generate", "abc abc abc", "-m", folder, "-n", "12", "--json", "-d", "none")
    assert json.loads(plain.stdout)["text"] == answer["text"]


def test_text_goes_to_stdout_and_the_summary_to_stderr(folder: str) -> None:
    expected = json.loads(run("generate", "abc", "-m", folder, "-n", "40", "--json").stdout)
    result = run("generate", "abc", "-m", folder, "-n", "40", NO_COLOR="1")
    assert result.exit_code == 0
    assert result.stdout == harmless(expected["text"]) + "\n"
    for part in ("40 tokens", "tok/s with auto", "plain", "acceptance length", "lossless yes"):
        assert part in result.stderr
    assert "first 32 tokens equal" in result.stderr


def test_accepted_tokens_are_green(folder: str) -> None:
    # The model drafts for itself: all but the bonus tokens are accepted drafts.
    arguments = ["generate", "abc", "-m", folder, "--draft-model", folder, "-d", "model",
                 "--no-compare"]  # fmt: skip
    coloured = run(*arguments, FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[32m" in coloured.stdout
    assert "not compared" in coloured.stderr
    assert "\x1b" not in run(*arguments, NO_COLOR="1", FORCE_COLOR="1", TERM="xterm").stdout


def test_choices_are_explained(folder: str) -> None:
    arguments = ["generate", "abc abc abc abc", "-m", folder, "--no-compare", "-n", "30"]
    told = run(*arguments, "--explain", NO_COLOR="1").stderr
    assert "round" in told and "rounds by proposer: " in told
    assert "best draft promised" in told or "promised" in told
    fixed = run(*arguments, "--explain", "-d", "none", NO_COLOR="1").stderr
    assert "none was asked for" in fixed and "plain 30" in fixed
    assert "rounds by" not in run(*arguments, NO_COLOR="1").stderr


def test_sampling_options_reach_the_engine(folder: str) -> None:
    settings = ("--temperature", "0.9", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.01",
                "--repetition-penalty", "1.1", "--seed", "5")  # fmt: skip
    texts = [
        json.loads(
            run("generate", "abc", "-m", folder, "-n", "30", "--json", *settings, *more).stdout
        )
        for more in (
            (),
            ("-d", "none"),
            ("-d", "model", "--draft-model", "random", "--num-draft-tokens", "3"),
        )
    ]
    assert {answer["drafter"] for answer in texts} == {"auto", "none", "model"}
    assert len({answer["text"] for answer in texts}) == 1
    assert texts[0]["seed"] == 5
    assert max(texts[2]["stats"]["acceptance_rate_per_position"]) < 0.9
    stop = texts[0]["text"][3]
    cut = run("generate", "abc", "-m", folder, "--json", *settings, "--stop", stop)
    assert stop not in json.loads(cut.stdout)["text"]


def test_rejection_sampling_is_not_compared_token_by_token(folder: str) -> None:
    result = run("generate", "abc", "-m", folder, "-n", "8", "-t", "1", "--acceptance", "rejection")
    assert result.exit_code == 0
    assert "in distribution" in result.stderr


def test_a_difference_from_plain_decoding_fails(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(monkeypatch, position=3)
    result = run("generate", "abc", "-m", folder, "-n", "8")
    assert result.exit_code == 1
    assert "lossless NO" in result.stderr


def test_prompts_come_from_file_and_pipe(folder: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("abc")
    rest = ("-m", folder, "-n", "5", "--json")
    texts = [
        json.loads(result.stdout)["text"]
        for result in (
            run("generate", "abc", *rest),
            run("generate", "-f", str(tmp_path / "prompt.txt"), *rest),
            run("generate", *rest, stdin="abc"),
        )
    ]
    assert len(set(texts)) == 1


def test_without_a_prompt_there_is_an_example(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_stdin_is_idle", lambda: True)
    result = run("generate", "-m", folder, "-n", "5")
    assert result.exit_code == 0
    assert "built-in example" in result.stderr
    assert "class Counter" in result.stderr


def test_dev_null_counts_as_no_prompt() -> None:
    code = "from specdec.cli.prompts import read_prompt; assert read_prompt(None, None) is None"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "-d", "ngrma"], "unknown drafter 'ngrma': did you mean 'ngram'"),
        (["generate", "a", "-f", "x.txt"], "give one of them"),
        (["generate", "-f", "no-such-file"], "no-such-file cannot be read"),
        (["generate", " "], "the prompt is empty"),
        (["generate", "a", "--chat"], "no chat template"),
        (["generate", "a", "--acceptance", "maybe"], "unknown acceptance rule"),
        (["generate", "a", "-t", "-1"], "temperature=-1"),
        (["generate", "a", "-d", "model"], "draft_model="),
        (["check", "--prompts", "no-such-file"], "no-such-file cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    folder: str, arguments: list[str], message: str
) -> None:
    result = run(*arguments, "-m", folder)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("generate", "--bad").exit_code == 2
    assert run("nothing").exit_code == 2


def test_an_interrupt_is_status_130(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "stream", interrupted)
    result = run("generate", "abc", "-m", folder)
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_text_cannot_drive_the_terminal() -> None:
    assert (
        harmless("a\x1b[2Jb\nc\td\u009b")
        == "a\N{REPLACEMENT CHARACTER}[2Jb\nc\td\N{REPLACEMENT CHARACTER}"
    )


# --- check -----------------------------------------------------------------------------------


def corrupt(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """Let every speculative text have another token at `position`."""
    from specdec.generation import GenerationStream

    honest = GenerationStream._generate

    def lying(self: GenerationStream) -> Any:
        yield from honest(self)
        if self.drafter.name != "none":
            ids = self.generations[0].token_ids
            ids[position] = (ids[position] + 1) % len(letters.LETTERS)

    monkeypatch.setattr(GenerationStream, "_generate", lying)


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


# --- list, env, help -------------------------------------------------------------------------


def test_list_shows_the_tables() -> None:
    tables = json.loads(run("list", "--json").stdout)
    assert list(tables) == ["drafters", "views", "acceptance"]
    assert tables["drafters"] == {k: v.summary for k, v in registry.DRAFTERS.items()}
    shown = run("list", COLUMNS="200").stdout
    for table in tables.values():
        for name, summary in table.items():
            assert name in shown
            assert summary in shown


def test_env_shows_versions_and_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path))
    facts = json.loads(run("env", "--json").stdout)
    assert facts["torch"] == torch.__version__
    assert facts["specdec_cache"] == str(tmp_path)
    assert {"specdec", "python", "transformers", "triton", "numba", "cpu", "threads"} <= set(facts)
    assert "transformers" in run("env", COLUMNS="200").stdout


@pytest.mark.parametrize("command", ["generate", "check", "list", "env"])
def test_help_has_examples(command: str) -> None:
    result = run(command, "--help", COLUMNS="120")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"specdec {command}" in result.stdout


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; import specdec.cli.app; "
        "late = {'torch', 'transformers', 'numpy', 'numba'} & set(sys.modules); "
        "sys.exit(f'imported too early: {late}' if late else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_the_packages() -> None:
    from specdec import __version__

    assert run("--version").stdout.strip() == __version__


# --- memory ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with room for a long text."""
    return letters.save(tmp_path_factory.mktemp("cli") / "long", positions=4096)


def test_tiers_and_a_saved_prompt(long: str, tmp_path: Path) -> None:
    """Older KV on disk, the prompt read once: the text is the same, and the folder is used."""
    prompt = "abcd efgh " * 300
    plain = json.loads(run("generate", prompt, "-m", long, "-n", "12", "--json").stdout)
    saved = tmp_path / "book"
    for _ in range(2):
        result = run(
            "generate", prompt, "-m", long, "-n", "12", "--json", "--kv-tier", "disk",
            "--offload-folder", str(tmp_path), "--saved-prompt", str(saved),
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["text"] == plain["text"]
    assert (saved / "prompt.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["book"]
    shown = run("generate", prompt, "-m", long, "-n", "2", "--kv-tier", "disk", "--no-compare")
    assert "disk: KV" in shown.stderr and "plain decoding: at most" in shown.stderr
    other = run("generate", "other", "-m", long, "-n", "2", "--saved-prompt", str(saved))
    assert other.exit_code == 2 and "does not start with saved_prompt" in other.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_memory_of_a_gpu_that_is_not_there(folder: str) -> None:
    result = run("generate", "abc", "-m", folder, "--gpu-memory", "22GiB")
    assert result.exit_code == 2
    assert "--gpu-memory 22GiB: PyTorch sees no GPU here" in result.stderr


def test_bench_offload(long: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcd efgh " * 400)
    result = run(
        "bench", "offload", "-m", long, "--context", "3000", "--rates", "0,0.5", "--drafters",
        "ngram", "--new-tokens", "6", "--repeats", "1", "-f", str(tmp_path / "text"),
        "--out", str(tmp_path / "out.json"),
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "OTHER TEXT" not in result.stdout and "device" in result.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert [cell["tier"] for cell in document["cells"]] == ["device", "disk", "disk"]
    assert 0 < document["cells"][2]["link"] < 0.6e9
    assert set(document["cells"][1]["passes"]) == {"1", "4", "8", "16", "32", "64"}
    shape = run(
        "bench", "offload", "-m", long, "--random-weights", "--context", "2600", "--rates", "0",
        "--repeats", "1", "--json",
    )  # fmt: skip
    assert shape.exit_code == 0, shape.stderr
    assert json.loads(shape.stdout)["cells"][1]["texts"] == {}
