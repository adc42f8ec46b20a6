"""What the site does to pages: links out of docs/ become names of files, which must be there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?://)[^)#\s]+)(#[^)]*)?\)")
_CHANGELOG = "changelog.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository outside docs/ as what they say, without a link.

    Raises FileNotFoundError where there is no such file.
    """
    if page.file.src_uri == _CHANGELOG:
        return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def shown(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(
                f"docs/{page.file.src_uri} links to {match[2]}, which is not there"
            )
        if target.is_relative_to(ROOT / "docs") and not target.is_dir():
            return match[0]
        return match[1] if match[1].startswith("`") else f"`{target.relative_to(ROOT)}`"

    return _LINK.sub(shown, markdown)
