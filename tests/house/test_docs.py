"""Every command in the documentation is one, every snippet runs, and no link is dead."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import typer

from specdec import Engine
from specdec.cli.app import app

from helpers import pages
from helpers.command import run

NAMED = [(page, command) for page in pages.PAGES for command in pages.named_commands(page)]
RUN = [
    "README.md",
    *(f"docs/{x}.md" for x in ("quickstart", "drafters", "exactness", "troubleshooting")),
]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("page", "command"), NAMED, ids=[f"{pages.name(p)}: {' '.join(c)[:60]}" for p, c in NAMED]
)
def test_a_command_exists_with_its_options(page: Path, command: list[str]) -> None:
    """Parsed as the command line does it, without being run."""
    found: Any = typer.main.get_command(app)
    words = [word for word in command if word != "..."]
    if words[:1] == ["-v"]:
        words = words[1:]
    while words and words[0] in getattr(found, "commands", {}):
        found, words = found.commands[words[0]], words[1:]
    given = [word for word in words if word[:1] != "-"]
    assert not given or not hasattr(found, "commands"), f"there is no command {given[0]!r}"
    if words and "--help" not in words:
        known = {flag for param in found.params for flag in param.opts + param.secondary_opts}
        flags = {word.split("=")[0] for word in words if word[:1] == "-" and not _number(word)}
        assert flags <= known, f"{flags - known}"


def _number(word: str) -> bool:
    return word[1:2].isdigit()


@pytest.mark.parametrize("name", RUN)
def test_the_commands_and_snippets_of_a_page_run(name: str, as_demo: None) -> None:
    page = pages.ROOT / name
    tried = 0
    for block in pages.blocks(page, "sh"):
        for command in pages.commands(block):
            result = run(*command)
            assert result.exit_code == 0, f"{command}: {result.output}"
            tried += 1
    names: dict[str, Any] = {}
    for block in pages.blocks(page, "python"):
        exec(compile(block, name, "exec"), names)
        tried += 1
    assert tried


def test_the_snippets_of_offload_run(as_demo: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in pages.blocks(pages.ROOT / "docs/offload.md", "python"):
        exec(compile(block, "offload.md", "exec"), names)
    assert names["out"].lossless and capsys.readouterr().out


def test_the_drafter_that_a_page_begins_with_drafts(as_demo: None) -> None:
    names: dict[str, Any] = {}
    (block,) = pages.blocks(pages.ROOT / "docs/extending/drafter.md", "python")
    exec(compile(block, "drafter.md", "exec"), names)
    engine = Engine.from_pretrained("demo")
    plain, out = (
        engine.generate("abcabc", drafter=who, max_new_tokens=12) for who in ("none", names["Echo"])
    )
    assert out.text == plain.text and out.stats.draft_acceptance_rate is not None


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    """With warnings as errors: dead links and anchors, pages that no menu has."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    heard: list[str] = []

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    hearing = Hearing(logging.WARNING)
    logger = logging.getLogger("mkdocs")
    logger.addHandler(hearing)
    try:
        build(load_config(str(pages.ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    finally:
        logger.removeHandler(hearing)
    assert not heard
    assert "Engine" in (tmp_path / "site" / "api" / "index.html").read_text()
