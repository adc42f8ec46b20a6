"""The command line: bad input, exit codes, tables and help, and its options for memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from specdec import registry
from specdec.cli.app import app
from specdec.engine import Engine

from helpers import letters
from helpers.command import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of letters with its tokenizer."""
    return letters.save(tmp_path_factory.mktemp("cli") / "letters")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "-d", "ngrma"], "unknown drafter 'ngrma': did you mean 'ngram'"),
        (["generate", "a", "-f", "x.txt"], "give one of them"),
        (["generate", "-f", "no-such-file"], "no-such-file cannot be read"),
        (["generate", " "], "the prompt is empty"),
        (["generate", "a", "--chat"], "no chat template"),
        (["generate", "a", "--acceptance", "maybe"], "unknown acceptance rule"),
        (["generate", "a", "-t", "-1"], "--temperature -1"),
        (["generate", "a", "-d", "model"], "--draft-model"),
        (["check", "--prompt-file", "no-such-file"], "no-such-file cannot be read"),
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


def test_list_shows_the_tables() -> None:
    tables = json.loads(run("list", "--json").stdout)
    assert list(tables) == ["drafters", "views", "acceptance"]
    assert tables["drafters"] == {k: v.summary for k, v in registry.DRAFTERS.items()}
    shown = run("list", COLUMNS="200").stdout
    for table in tables.values():
        for name, summary in table.items():
            assert name in shown
            assert summary in shown


def test_list_shows_the_options_of_one() -> None:
    found = json.loads(run("list", "snapkv", "--json").stdout)["options"]
    assert found["refresh"]["default"] == "prompt" and found["budget"]["default"] == "512"
    assert set(found) == set(registry.DRAFTERS["snapkv"].options)
    shown = run("list", "snapkv", COLUMNS="200").stdout
    assert all(name in shown for name in found)
    assert "It has no options." in run("list", "none").stdout
    assert "did you mean 'quest'" in run("list", "qest").stderr


def test_every_option_of_a_method_is_one_of_the_commands() -> None:
    whole: Any = typer.main.get_command(app)
    run_ = whole.commands["bench"].commands["run"]
    for command in (whole.commands["generate"], whole.commands["check"], run_):
        flags = {flag for param in command.params for flag in param.opts}
        assert {f"--{name.replace('_', '-')}" for name in registry.holders()} <= flags
    assert "--num-speculative-tokens" in flags


def test_env_shows_versions_and_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path))
    facts = json.loads(run("env", "--json").stdout)
    assert facts["torch"] == torch.__version__
    assert facts["specdec_cache"] == str(tmp_path)
    assert {"specdec", "python", "transformers", "triton", "numba", "cpu", "threads"} <= set(facts)
    assert "transformers" in run("env", COLUMNS="200").stdout


def every_command() -> list[str]:
    """The names of all commands, those of groups with both words."""
    whole: Any = typer.main.get_command(app)
    return [
        f"{name} {below}".strip()
        for name, command in whole.commands.items()
        for below in getattr(command, "commands", [""])
    ]


@pytest.mark.parametrize("command", every_command())
def test_help_has_examples(command: str) -> None:
    result = run(*command.split(), "--help", COLUMNS="140")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert command in result.stdout.split("Examples:")[1]
    assert "--json" in result.stdout


@pytest.mark.parametrize("command", every_command())
def test_help_fits_a_terminal_and_speaks_its_language(command: str) -> None:
    """No types of Python, no name cut off, a word about every option, and two screens at most."""
    shown = run(*command.split(), "--help", COLUMNS="80").stdout
    assert "…" not in shown and not re.search(r"<(str|int|float|path|list)", shown)
    assert max(map(len, shown.splitlines())) <= 80 and shown.count("\n") <= 90
    for option in re.split(r"\n  (?=-)", shown.partition("Options:\n")[2])[1:]:
        assert re.search(r"(  |\n {10,})\S", option), f"{command}: nothing is said of {option}"


@pytest.mark.parametrize("group", ["", "bench", "cache"])
def test_lists_of_commands_say_whole_sentences(group: str) -> None:
    shown = run(*group.split(), "--help", COLUMNS="80").stdout.partition("Commands:\n")[2]
    lines = shown.splitlines()
    assert lines and all(re.fullmatch(r"  [\w-]+ +\S.*\.", line) for line in lines), shown
    assert "..." not in shown


def test_help_has_the_options_of_what_is_named() -> None:
    assert "--budget" not in run("generate", "--help").stdout
    assert "--min-ngram" in run("generate", "--help").stdout
    of_quest = " ".join(run("generate", "-d", "quest", "--help").stdout.split())
    assert "--budget" in of_quest and "--min-ngram" not in of_quest
    assert "Default: pass." in of_quest  # its own, not those of all
    assert "--cosine" not in of_quest and "--bits" not in of_quest


def test_options_of_the_last_release_work_with_a_note(folder: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("abc")
    how = ["-m", folder, "-n", "4", "-t", "0", "--json"]
    result = run("check", "--prompts", str(tmp_path / "prompts.txt"), *how)
    assert result.exit_code == 0 and "--prompts is --prompt-file now" in result.stderr
    assert json.loads(result.stdout)
    assert "--prompts" not in run("check", "--help").stdout


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
    assert other.exit_code == 2 and "does not start with --saved-prompt" in other.stderr


def test_saved_documents(long: str, tmp_path: Path) -> None:
    """Read apart and put together: the text is that of all of it, whoever drafts."""
    documents = ["abcd efgh " * 9, "hgfe abcd " * 7]
    for number, document in enumerate(documents):
        folder = str(tmp_path / str(number))
        assert (
            run("generate", document, "-m", long, "-n", "1", "--saved-prompt", folder).exit_code
            == 0
        )
    options = ["-m", long, "-n", "9", "--json"]
    plain = json.loads(run("generate", "".join(documents) + "ab", *options).stdout)
    for number in range(2):
        options += ["--saved-documents", str(tmp_path / str(number))]
    for drafter in ("none", "cacheblend"):
        result = run("generate", "ab", *options, "--drafter", drafter)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["token_ids"] == plain["token_ids"]
    lossy = json.loads(run("generate", "ab", *options, "--view", "cacheblend").stdout)
    assert lossy["lossless"] is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_memory_of_a_gpu_that_is_not_there(folder: str) -> None:
    result = run("generate", "abc", "-m", folder, "--gpu-memory", "22GiB")
    assert result.exit_code == 2
    assert "--gpu-memory 22GiB: PyTorch sees no GPU here" in result.stderr


def test_bench_offload(long: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcd efgh " * 400)
    (tmp_path / "other").write_text("hgfe dcba " * 400)
    command = (
        "bench", "offload", "-m", long, "--context", "3000", "--rates", "0,0.5", "--drafters",
        "ngram,snapkv:budget=1024", "--max-new-tokens", "6", "-f", str(tmp_path / "text"),
        "-f", str(tmp_path / "other"), "--saved-prompts", str(tmp_path / "kv"),
        "--out", str(tmp_path / "out.json"),
    )  # fmt: skip
    first = run(*command, "--repeats", "1", "--time-limit", "0")
    assert first.exit_code == 130, first.stderr
    result = run(*command, "--repeats", "1")
    assert result.exit_code == 0, result.stderr
    assert "OTHER TEXT" not in result.stdout and "device" in result.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert [cell["tier"] for cell in document["cells"]] == ["device", "disk", "disk"]
    assert 0 < document["cells"][2]["link"] < 0.6e9
    assert set(document["cells"][1]["passes"]) == {"1", "4", "8", "16", "32", "64"}
    texts = document["cells"][2]["texts"]
    assert set(texts) == {"text", "other"}
    assert set(texts["text"]) == {"plain", "ngram", "snapkv:budget=1024"}
    assert all(len(who["runs"]) == 1 for text in texts.values() for who in text.values())
    drafted, plain = texts["text"]["snapkv:budget=1024"], texts["text"]["plain"]
    assert 0 < drafted["fetched"] < plain["fetched"] and plain["tokens_per_pass"] == 1
    again = run(*command, "--repeats", "2", "--no-near", "--json")
    assert again.exit_code == 0, again.stderr
    both = {cell["tier"] + str(cell["rate"]): cell for cell in json.loads(again.stdout)["cells"]}
    counts = {name: len(cell["texts"]["other"]["ngram"]["runs"]) for name, cell in both.items()}
    assert counts == {"diskNone": 2, "disk500000000.0": 2, "deviceNone": 1}
    other = run(*command[:-8], "--max-new-tokens", "5", *command[-8:])
    assert other.exit_code == 2 and "new_tokens 6, and this one has 5" in other.stderr
    shape = run(
        "bench", "offload", "-m", long, "--random-weights", "--context", "2600", "--rates", "0",
        "--repeats", "1", "--json",
    )  # fmt: skip
    assert shape.exit_code == 0, shape.stderr
    assert json.loads(shape.stdout)["cells"][1]["texts"] == {}
    known = run("bench", "offload", "-m", long, "--texts", "verse")
    assert known.exit_code == 2 and "give code, prose" in known.stderr


def test_heads_are_measured_and_used(long: str, tmp_path: Path) -> None:
    """A file that `calibrate` wrote serves its model, and is refused for another method."""
    file = tmp_path / "heads.json"
    result = run("calibrate", "duo", str(file), "-m", long, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["method"] == "duo"
    how = ("-m", long, "-n", "8", "--json", "--no-compare", "--calibration", str(file))
    prompt = "abcd efgh " * 60
    drafted = run("generate", prompt, *how, "-d", "duo", "--budget", "80")
    assert drafted.exit_code == 0, drafted.stderr
    plain = json.loads(run("generate", prompt, "-m", long, "-n", "8", "--json").stdout)
    assert json.loads(drafted.stdout)["text"] == plain["text"]
    other = run("generate", prompt, *how, "-d", "razor")
    assert other.exit_code == 2 and "made for 'duo' and not for 'razor'" in other.stderr
    unknown = run("calibrate", "dou", str(file), "-m", long)
    assert unknown.exit_code == 2 and "did you mean 'duo'" in unknown.stderr
