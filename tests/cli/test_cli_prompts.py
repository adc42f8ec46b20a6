"""Prompts from files and pipes, as editors and other programs write them; text on its way out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from specdec.bench.suites import workloads_of
from specdec.cli import generate
from specdec.cli.prompts import read_prompt, read_prompts
from specdec.decoding.output import Step
from specdec.errors import InvalidArgument

from helpers import letters
from helpers.command import run

pytestmark = pytest.mark.fast

LINE, NEL, FEED, BOM = "\u2028", "\x85", "\x0c", "\ufeff"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def made(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return made


def test_lines_of_text_are_what_files_call_lines(write: Any) -> None:
    kept = [f"a{LINE}b\u2029c", f"d{NEL}e", f"f{FEED}g\x0bh\x1ci", "tab\there ", "last"]
    for newline in ("\n", "\r\n"):
        text = newline.join([*kept[:2], "", "  ", *kept[2:]])
        assert read_prompts(write("p.txt", text)) == kept
        assert read_prompts(write("p.txt", BOM + text + newline)) == kept
    assert read_prompts(write("p.txt", "a\nb\nc"), 2) == ["a", "b"]
    assert read_prompts(write("p.txt", "x" * 3_000_000 + "\ny"))[0] == "x" * 3_000_000


def test_json_lines(write: Any) -> None:
    texts = [f"a{LINE}b", f"c{NEL}d", f"e{FEED}f\r\n", "g"]
    entries = [{"prompt": texts[0]}, texts[1], {"text": texts[2]}, {"turns": [texts[3], "h"]}]
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    for newline in ("\n", "\r\n", "\n\n", "\r\n \r\n"):
        for start in ("", BOM):
            file = write("p.jsonl", start + newline.join(lines) + newline)
            assert read_prompts(file) == texts
    assert read_prompts(write("p.json", "\n".join(lines))) == texts  # lines by another name


def test_json_arrays(write: Any) -> None:
    entries = [{"prompt": "a"}, "b", {"turns": ["c"]}]
    for indent in (None, 2):
        assert read_prompts(write("p.json", BOM + json.dumps(entries, indent=indent))) == list(
            "abc"
        )
    assert read_prompts(write("p.json", '{\n "prompt":\n "a"}')) == ["a"]
    assert read_prompts(write("P.JSON", '["a"]')) == ["a"]


BAD = [
    ("p.jsonl", '{"turns": "hello"}', "line 1: turns is no list"),
    ("p.jsonl", '{"prompt": "a"}\n\n{"turns": []}', "line 3: turns is no list"),
    ("p.jsonl", '{"turns": [3]}', "turns holds a int"), ("p.jsonl", '{"prompt": 3}', "holds a int"),
    ("p.jsonl", '{"prompt": ""}', "line 1: prompt is empty"),
    ("p.jsonl", '{"prompt": ["a"]}', "prompt holds a list"),
    ("p.jsonl", '{"question": "a"}', "expected a field prompt, text or turns"),
    ("p.jsonl", '["a"]', "line 1 is a list"), ("p.jsonl", "3", "line 1 is a int"),
    ("p.jsonl", '"a"\n{"prompt": ', "line 2 is not JSON"), ("p.jsonl", "[" * 99999, "not JSON"),
    ("p.json", '["a",]', "p.json is not JSON"), ("p.json", '["a", null]', "entry 2 is a NoneType"),
    ("p.json", "[]", "holds no prompts"), ("p.txt", " \n\r\n", "holds no prompts"),
    ("p.txt", b"caf\xe9", "it is not UTF-8 (byte 0xe9 at place 3); convert it"),
    ("p.txt", "abc".encode("utf-16"), "it is UTF-16"), ("p.jsonl", b'{"prompt": "\xff"}', "UTF-8"),
    ("p.jsonl", '{"prompt": "\\ud800"}', None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=lambda x: str(x)[:24])
def test_what_is_no_file_of_prompts(write: Any, name: str, content: Any, message: str) -> None:
    file = write(name, content)
    if message is None:  # a lone surrogate is JSON, but no text: the engine says so
        assert read_prompts(file) == ["\ud800"]
        return
    with pytest.raises(InvalidArgument) as refused:
        read_prompts(file)
    assert str(file) in str(refused.value) and message in str(refused.value)
    assert len(str(refused.value)) < 300


def test_the_benchmark_reads_the_same_files(write: Any) -> None:
    entries = [{"prompt": f"a{LINE}b", "category": "x", "question_id": 7}, {"turns": ["c"]}]
    file = write("q.json", BOM + json.dumps(entries, ensure_ascii=False))
    found = workloads_of("spec-bench", None, 1000, [file])
    assert [(row.name, row.summary, row.prompt) for row in found] == [
        ("x 7", "x", f"a{LINE}b"), ("q 2", "q", "c"),
    ]  # fmt: skip
    with pytest.raises(InvalidArgument, match="turns is no list"):
        workloads_of("spec-bench", None, 1000, [write("q.jsonl", '{"turns": "c"}')])


def test_a_prompt_is_what_stands_in_the_file(write: Any) -> None:
    text = f"a\tb\r\nc{LINE}d{FEED}\n"
    assert read_prompt(None, write("p.txt", BOM + text)) == text
    with pytest.raises(InvalidArgument, match="is a directory|Is a directory"):
        read_prompt(None, write("p.txt", text).parent)


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> str | None:
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr("specdec.cli.prompts._stdin_is_idle", lambda: False)
    return read_prompt(None, None)


def test_a_pipe_is_utf_8_whatever_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"naïve\t日本\r\n{LINE}🙂"
    assert piped(monkeypatch, text.encode()) == text
    assert piped(monkeypatch, (BOM + text).encode()) == text
    for data, message in (
        (b"\xff\xfe\x80abc", "UTF-16"),
        (b"caf\xe9", "standard input cannot be read: it is not UTF-8"),
        (b"a\xed\xa0\x80", "not UTF-8"),
        (b" \n", "the prompt is empty"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            piped(monkeypatch, data)


def printed(monkeypatch: pytest.MonkeyPatch, pieces: list[str]) -> bytes:
    """What a pipe receives of a text that comes in these pieces."""
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))
    steps = [Step(0, [1], ["ngram"], [piece], None) for piece in pieces]
    generate.print_steps(steps)
    sys.stdout.flush()
    return pipe.getvalue()


@pytest.mark.parametrize("text", ["\tgo\ttest", "a\r\nb\rc", "\x1b[31mred\x07", "[bold]x[/]", LINE])
def test_text_on_a_pipe_is_kept_byte_for_byte(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    wide = "x" * 300 + text
    assert printed(monkeypatch, [text, wide, *text]) == (text + wide + text + "\n").encode()


def test_bytes_that_are_no_text_are_one_line_from_the_command(tmp_path: Path) -> None:
    folder = letters.save(tmp_path / "letters")
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x80abc")
    result = run("generate", "-m", folder, "-f", str(tmp_path / "p.txt"))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    argument = run("generate", "\udcff abc", "-m", folder)
    assert argument.exit_code == 2 and "lone surrogate" in argument.stderr
