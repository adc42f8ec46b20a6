"""The command line in this process, and a speculative text that lies."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from typer.testing import CliRunner

from specdec.cli.app import app

from helpers import letters


def run(*arguments: str, stdin: str | None = None, **env: str) -> Any:
    log = logging.getLogger("specdec")
    before = log.level, log.handlers
    try:
        return CliRunner().invoke(app, list(arguments), input=stdin, env=env)
    finally:
        log.setLevel(before[0])
        log.handlers = before[1]


def corrupt(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """Let every speculative text have another token at `position`."""
    from specdec.decoding.stream import GenerationStream

    honest = GenerationStream._generate

    def lying(self: GenerationStream) -> Any:
        yield from honest(self)
        if self.drafter.name != "none":
            ids = self.generations[0].token_ids
            ids[position] = (ids[position] + 1) % len(letters.LETTERS)

    monkeypatch.setattr(GenerationStream, "_generate", lying)
