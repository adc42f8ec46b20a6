"""Errors of the command line: in its own words, one line, whatever went wrong."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from specdec.cli.app import app
from specdec.cli.spelling import in_options
from specdec.sampling import params

from helpers import letters
from helpers.command import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of letters with its tokenizer."""
    return letters.save(tmp_path_factory.mktemp("cli") / "letters")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "model"], "drafter 'model' needs --draft-model: a smaller"),
        (["-n", "0"], "--max-new-tokens 0 is not a whole number"),
        (["--max-tokens", "0"], "--max-new-tokens 0 is not"),
        (["--stop", ""], "--stop holds an empty string"),
        (["-t", "-1"], "--temperature -1.0 is not"),
        (["--repetition-penalty", "0"], "--repetition-penalty 0 divides by zero"),
        (["-d", "ngram", "--draft-model", "x"], "no use for --draft-model"),
        (["-d", "ngram", "--budget", "96"], "no use for --budget: leave it out, or choose among"),
        (["--num-speculative-tokens", "0"], "--num-draft-tokens 0 is out of range"),
        (["-d", "NGRAM"], "unknown drafter 'NGRAM': did you mean 'ngram'"),
        (["--acceptance", "Coupled"], "did you mean 'coupled'"),
        (["--device", "mps"], "--device 'mps' is not supported: specdec runs on cpu and cuda"),
        (["--device", "meta"], "--device 'meta' is not supported"),
        (["--dtype", "int8"], "--dtype 'int8' is unknown"),
        (["--view", "streaming", "--budget", "3"], "--budget"),
    ],
)
def test_errors_name_options(folder: str, arguments: list[str], message: str) -> None:
    result = run("generate", "abc", "-m", folder, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "_" not in result.stderr.replace(folder, ""), "a name of Python"


def test_a_prompt_without_quotes_is_told_about_them(folder: str) -> None:
    result = run("generate", "-m", folder, "Once", "upon", "a", "time")
    assert result.exit_code == 2 and "stands in quotes" in result.stderr


def test_a_model_without_a_template_is_no_partner(folder: str) -> None:
    result = run("chat", "-m", folder)
    assert result.exit_code == 2 and "`specdec generate` goes on" in result.stderr


def options_of(name: str) -> list[Any]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return list(command.params)


def test_only_what_a_command_has_is_respelled() -> None:
    message = "max_new_tokens=3, top_k=0: give stop_strings, or x=1 (temperature=)"
    told = "--max-new-tokens 3, --top-k 0: give --stop, or x=1 (--temperature)"
    assert in_options(message, options_of("generate")) == told
    assert in_options(message, options_of("list")) == message
    assert in_options("the model has my_model=3", options_of("generate")).endswith("my_model=3")
    listed = "choose among max_ngram=, sink=, min_ngram=, recent=: any"
    few = "choose among --sink, --recent: any"
    assert in_options(listed, options_of("profile")) == few
    assert in_options("max_ngram=, min_ngram=", options_of("profile")) == "max_ngram=, min_ngram="
    assert in_options("a --seed=3 and ./a_seed=4", options_of("generate")).startswith("a --seed=3")


def test_every_setting_of_generate_is_spelled_as_in_python() -> None:
    """Or errors could not be put into the words of the command line."""
    names = {param.name for param in options_of("generate")}
    assert {"max_new_tokens", "stop_strings", "draft_model", "num_draft_tokens"} <= names
    assert not names & set(params.SYNONYMS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--version"], ["--help"]])
def test_a_full_disk_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "specdec", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "specdec", "list"],
        stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 1 and done.stderr == b""


@pytest.mark.parametrize("as_json", [False, True])
def test_a_disk_that_fills_while_text_comes(
    folder: str, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specdec.cli import console

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(console, "print_json" if as_json else "write", full)
    result = run("generate", "abc", "-m", folder, "-n", "3", *(["--json"] if as_json else []))
    assert result.exit_code == 2
    assert result.stderr.endswith("cannot be written: No space left on device\n")
    assert result.stderr.count("\n") == 1


def test_a_file_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from specdec.cli import listing

    def denied(_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "\x1b[2Jx"))

    monkeypatch.setattr(listing.console, "print_json", denied)
    result = run("list", "--json")
    assert result.exit_code == 2 and "x: Permission denied" in result.stderr
    assert "\x1b" not in result.stderr  # a name cannot drive the terminal


def test_messages_of_others_are_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub has a handler of its own; ours must not print its messages again."""
    hub = logging.getLogger("huggingface_hub")
    before = list(hub.handlers), logging.getLogger().handlers.copy()
    assert run("list").exit_code == 0
    assert (hub.handlers, logging.getLogger().handlers) == before
    ours = logging.getLogger("specdec")
    monkeypatch.setattr(ours, "handlers", [])  # and what `run` would put back at once
    monkeypatch.setattr(ours, "level", ours.level)
    for _ in range(2):
        assert CliRunner().invoke(app, ["-v", "list"]).exit_code == 0
        assert len(ours.handlers) == 1


def test_our_log_goes_where_stderr_is(folder: str) -> None:
    for _ in range(2):
        result = run("-v", "generate", "abc", "-m", folder, "-n", "2", "--json", "-d", "none")
        assert result.stderr.count("specdec: LlamaForCausalLM in ") == 1
        assert json.loads(result.stdout)["drafter"] == "none"
    logging.getLogger("specdec").setLevel(logging.WARNING)


def test_as_a_module_and_with_completion(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "specdec", "--version"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == run("--version").stdout
    assert "--install-completion" in run("--help").stdout
