"""A tiny model in the place of the demo's, for pages and examples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from specdec import Engine

from helpers import letters, pages

TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with a chat template, in the place of the demo's."""
    folder = letters.save(tmp_path_factory.mktemp("docs") / "letters")
    (Path(folder) / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def as_demo(demo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = Engine.from_pretrained

    def tiny(model: Any = "demo", *args: Any, **kwargs: Any) -> Engine:
        return load(demo if model == "demo" else model, *args, **kwargs)

    monkeypatch.setattr(Engine, "from_pretrained", tiny)
    shutil.copy(pages.ROOT / "LICENSE", tmp_path)
    shutil.copytree(demo, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
