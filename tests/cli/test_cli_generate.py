"""`specdec generate`: what is printed where, prompts and options."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.cli import prompts
from specdec.cli.console import harmless
from specdec.cli.summary import joined

from helpers import letters
from helpers.command import corrupt, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of letters with its tokenizer."""
    return letters.save(tmp_path_factory.mktemp("cli") / "letters")


def test_json_is_one_object_and_nothing_else(folder: str) -> None:
    result = run("generate", "abc abc abc", "-m", folder, "-n", "12", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert set(answer) == {
        "text", "token_ids", "prompt_tokens", "finish_reason", "drafter", "acceptance",
        "view", "lossless", "seed", "prompt_index", "sample_index", "stats", "explanation",
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
    last = " · ".join(result.stderr.splitlines()[-2:])  # broken between parts if speeds are long
    for part in ("40 tokens · ", " tok/s with auto, ", "x plain · ", " tokens/pass · text equal"):
        assert part in last
    assert max(map(len, result.stderr.splitlines()[-2:])) <= 80


def test_more_is_said_with_verbose(folder: str) -> None:
    told = run("-v", "generate", "abc", "-m", folder, "-n", "40", "-d", "triforce").stderr
    for part in ("ended by: length", "over the first 32 tokens", "acceptance rate: ", "chunks: "):
        assert part in told


def test_a_summary_is_broken_between_its_parts() -> None:
    parts = ["a" * 30, "b" * 30, "c" * 30, "d" * 90]
    assert joined(parts) == [f"{parts[0]} · {parts[1]}", parts[2], parts[3]]


def test_accepted_tokens_are_green(folder: str) -> None:
    # The model drafts for itself: all but the bonus tokens are accepted drafts.
    arguments = ["generate", "abc", "-m", folder, "--draft-model", folder, "-d", "model",
                 "--no-compare"]  # fmt: skip
    coloured = run(*arguments, FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[32m" in coloured.stdout
    assert "· lossless" in coloured.stderr
    assert "\x1b" not in run(*arguments, NO_COLOR="1", FORCE_COLOR="1", TERM="xterm").stdout


def test_choices_are_explained(folder: str) -> None:
    arguments = ["generate", "abc abc abc abc", "-m", folder, "--no-compare", "-n", "30"]
    told = run(*arguments, "--explain", NO_COLOR="1").stderr
    stretch = r"rounds? [\d-]+: (plain \(best draft |\w+ \()promised \d+\.\d\dx"
    figures = r"(, a probe)?; \d+\.\d tokens in \d+\.\d ms a round\)"
    known = re.compile(f"{stretch}{figures}|.*: plain \\(to know its cost.*")
    lines = [line for line in told.splitlines() if re.match(r"rounds? \d", line)]
    assert lines and all(known.fullmatch(line) for line in lines), told
    assert "rounds by proposer: " in told
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
    assert "NOT the text of plain decoding" in result.stderr


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


def test_text_cannot_drive_the_terminal() -> None:
    assert (
        harmless("a\x1b[2Jb\nc\td\u009b")
        == "a\N{REPLACEMENT CHARACTER}[2Jb\nc\td\N{REPLACEMENT CHARACTER}"
    )
