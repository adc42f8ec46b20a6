"""`specdec cache`: what is ours in the cache is listed and cleared, and nothing else touched."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from specdec import cached, cachedir
from specdec.cli import cache as command
from specdec.errors import InvalidArgument, WeightsError

from helpers.command import run

pytestmark = pytest.mark.fast

OLD = "0123456789abcdef" * 2


@pytest.fixture
def full(cache: Path, tmp_path: Path) -> Path:
    """A cache with an entry of every kind, and what others keep there."""
    for name, size in {
        "demo/model.gguf": 3000,
        f"costs/{'0' * 24}.json": 10,
        "channels/abc123/order.safetensors": 50,
        f"tokenizers/{OLD}/tokenizer.json": 60,
        f"gguf/{OLD}-float32-v3/model.safetensors": 9000,
        f"gguf/{OLD}-bfloat16-v4/a/b.bin": 500,
        "gguf/12345678-1234-1234-1234-123456789abc.json": 20,
        f"gguf/{OLD}-llama.cpp-float32-v1/model.gguf": 700,
        "demo/.unfinished-1/part": 40,
        "mine/letter.txt": 5,
        "gguf/notes.txt": 5,
        "costs/mine.csv": 5,
    }.items():
        path = cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").write_text("kept")
    (cache / "channels" / "def").symlink_to(other)
    return cache


def names(found: list[cached.Entry]) -> dict[str, int]:
    return {entry.name: entry.nbytes for entry in found}


def test_entries_have_kinds_sizes_and_ages(full: Path) -> None:
    old = time.time() - 3 * 86400
    os.utime(full / "demo" / "model.gguf", (old, old))
    found = cached.entries()
    sizes = names(found)
    assert sizes["demo/model.gguf"] == 3000 and sizes[f"gguf/{OLD}-float32-v3"] == 9000
    assert sizes[f"gguf/{OLD}-bfloat16-v4"] == 500 and len(found) == 10
    kinds = {entry.name: entry.kind for entry in found}
    assert kinds[f"gguf/{OLD}-llama.cpp-float32-v1"] == "llama.cpp"
    assert kinds["demo/.unfinished-1"] == "unfinished"
    demo = next(entry for entry in found if entry.kind == "demo")
    assert 2.9 * 86400 < demo.age < 3.1 * 86400
    text = run("cache").stdout
    assert "3 days old" in text and "9 kB" in text and "nothing reads any more" in text
    assert run("cache", "list").stdout == text


def test_an_empty_cache(cache: Path) -> None:
    assert cached.entries() == []
    assert "0 kB" in run("cache").stdout
    assert json.loads(run("cache", "--json").stdout)["entries"] == []


def test_json_names_everything(full: Path) -> None:
    for arguments in (["cache", "--json"], ["cache", "list", "--json"]):
        document = json.loads(run(*arguments).stdout)
        assert document["folder"] == str(full)
        assert {entry["name"] for entry in document["entries"]} == set(names(cached.entries()))
        assert document["bytes"] == sum(entry["bytes"] for entry in document["entries"])


def test_a_kind_or_an_entry_is_cleared(full: Path) -> None:
    out = run("cache", "clear", "converted", "demo/model.gguf", "--yes")
    assert out.exit_code == 0 and "deleted 4 entries" in out.stdout
    kinds = {entry.kind for entry in cached.entries()}
    assert kinds == {"costs", "channels", "tokenizers", "llama.cpp", "unfinished"}


def test_all_is_cleared_but_what_is_not_ours(full: Path, tmp_path: Path) -> None:
    document = json.loads(run("cache", "clear", "--all", "--yes", "--json").stdout)
    assert len(document["entries"]) == 10 and cached.entries() == []
    left = sorted(p.relative_to(full).as_posix() for p in full.rglob("*") if not p.is_dir())
    assert left == ["costs/mine.csv", "gguf/notes.txt", "mine/letter.txt"]
    assert (tmp_path / "other" / "kept").read_text() == "kept"  # behind a link


def test_nothing_is_cleared_without_being_told(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(cached.entries())
    for arguments, message in [
        (["--all"], "give --yes"),
        ([], "name what to clear"),
        (["demo", "--all", "--yes"], "name what to clear"),
        (["dmeo", "--yes"], "did you mean 'demo'"),
        (["mine", "--yes"], "unknown kind or entry"),
        (["../other", "--yes"], "unknown kind or entry"),
    ]:
        out = run("cache", "clear", *arguments)
        assert out.exit_code == 2 and message in out.stderr, out.stderr
    assert run("cache", "--json", "clear", "demo", "--yes").exit_code == 2
    assert names(cached.entries()) == before


@pytest.mark.parametrize("answer", ["n", "y"])
def test_it_asks(full: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    class Sys:
        stdin = Terminal()

    monkeypatch.setattr(command, "sys", Sys)
    out = run("cache", "clear", "demo", stdin=answer + "\n")
    assert "Delete 1 entries, 3 kB" in out.stderr and "demo/model.gguf" in out.stderr
    assert out.exit_code == (0 if answer == "y" else 1)
    assert (full / "demo" / "model.gguf").exists() == (answer == "n")


def test_what_goes_meanwhile_is_no_error(full: Path) -> None:
    found = cached.chosen(["demo"])
    (full / "demo" / "model.gguf").unlink()
    assert cached.remove(found) == []
    with pytest.raises(InvalidArgument):
        cached.chosen(["demo/model.gguf"])


def test_room_is_asked_for(tmp_path: Path) -> None:
    cachedir.check_room(tmp_path, 1)
    with pytest.raises(WeightsError, match="GB are needed.*SPECDEC_CACHE"):
        cachedir.check_room(tmp_path, 1 << 60)
