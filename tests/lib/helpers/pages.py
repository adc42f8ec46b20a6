"""The pages of the documentation, and the commands and snippets that stand in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`(specdec [^`]+)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return [m[2] for m in _BLOCK.finditer(page.read_text()) if m[1] == language]


def commands(text: str) -> list[list[str]]:
    """The words of each `specdec` command in a block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("specdec ")]
    return [one[1:] for one in words]


def named_commands(page: Path) -> list[list[str]]:
    """All commands that a page names, in blocks and in sentences."""
    found = [
        command
        for language in ("sh", "text", "")
        for block in blocks(page, language)
        for command in commands(block)
    ]
    inline = _BLOCK.sub("", page.read_text())
    return found + [c for text in _INLINE.findall(inline) for c in commands(text)]


def inline(page: Path) -> list[str]:
    """The code that stands within sentences."""
    return re.findall(r"`([^`\n]+)`", _BLOCK.sub("", page.read_text()))
