"""Corpus: text files to learn from, split by file into training and held-out texts."""

from __future__ import annotations

import hashlib
import random
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from specdec.errors import InvalidArgument

_CODE = {".py", ".pyi", ".c", ".h", ".cpp", ".rs", ".js", ".ts", ".java", ".go", ".sh", ".toml"}
_PROSE = {".txt", ".md", ".rst", ".pod", ""}
_DULL = {"RECORD", "SOURCES.txt", "top_level.txt", "entry_points.txt", "copyright", "changelog"}
_SMALLEST, _LARGEST = 1_000, 400_000  # bytes; outside are stubs and generated tables
_EVERY = 20  # one file of so many is held out


class Corpus:
    """Text files by kind ("code" or "prose"), read when a text is asked for.

    They are drawn folder by folder, so that one large package does not fill the corpus.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.folders: dict[str, list[list[Path]]] = {"code": [], "prose": []}
        groups: dict[tuple[str, str], list[Path]] = {}
        for path in sorted(files):
            kind = "code" if path.suffix in _CODE else "prose"
            groups.setdefault((kind, _group(path)), []).append(path)
        for (kind, _), paths in groups.items():
            self.folders[kind].append(paths)

    @property
    def kinds(self) -> list[str]:
        """The kinds that have files."""
        return [kind for kind, folders in self.folders.items() if folders]

    def passage(self, rng: random.Random, kind: str, characters: int) -> str:
        """A random passage that starts at a line's start, from a random file of `kind`."""
        kind = kind if self.folders[kind] else self.kinds[0]
        for _ in range(100):
            text = _read(rng.choice(rng.choice(self.folders[kind])))
            if len(text) < 200:
                continue
            start = rng.randrange(max(1, len(text) - characters))
            start = text.rfind("\n", 0, start) + 1
            return text[start : start + characters]
        raise InvalidArgument("data: a hundred files in a row hold no text of 200 characters")


def gather(data: Iterable[str | Path]) -> list[Path]:
    """All text files of files and folders, sorted; without `data` those of `installed()`.

    Raises InvalidArgument for a path that does not exist, or where no text is found.
    """
    data = list(data)
    if not data:
        return installed()
    files: list[Path] = []
    for entry in map(Path, data):
        if not entry.exists():
            raise InvalidArgument(f"--data {entry}: there is no such file or folder")
        files.extend([entry] if entry.is_file() else _texts(entry))
    if not files:
        raise InvalidArgument("--data: no text or source files of 1 to 400 KB were found")
    return sorted(set(files))


def installed() -> list[Path]:
    """Python sources, package descriptions, documentation and licences of this machine."""
    paths = sysconfig.get_paths()
    found = {
        path
        for root in (paths["stdlib"], paths["purelib"])
        for path in _texts(Path(root))
        if not re.search(r"/(tests?|idlelib|lib2to3|__pycache__|_vendor)/", str(path))
    }
    for root in ("/usr/share/common-licenses", "/usr/share/doc"):
        found.update(_texts(Path(root)))
    found.update(Path(paths["purelib"]).glob("*.dist-info/METADATA"))
    return sorted(found)


def _texts(root: Path) -> list[Path]:
    wanted = _CODE | _PROSE
    return [
        path
        for path in root.rglob("*")
        if path.suffix in wanted
        and path.is_file()
        and not path.is_symlink()
        and _SMALLEST <= path.stat().st_size <= _LARGEST
        and path.name not in _DULL
    ]


def split(files: list[Path]) -> tuple[Corpus, Corpus]:
    """The corpus to train on, and the held-out one: about one file of twenty, by its name.

    By name and not by place, so that copies of one file fall on the same side. Raises
    InvalidArgument for a single file, which cannot be split.
    """
    if len({path.name for path in files}) < 2:
        raise InvalidArgument("--data holds one file, and one more is needed to be held out")
    ranks = {path.name: hashlib.sha256(path.name.encode()).digest()[0] for path in files}
    held = {name for name, rank in ranks.items() if rank % _EVERY == 0}
    if not held or len(held) == len(ranks):  # of a handful of files: one
        held = {min(ranks, key=lambda name: (ranks[name], name))}
    return (
        Corpus(path for path in files if path.name not in held),
        Corpus(path for path in files if path.name in held),
    )


def _group(path: Path) -> str:
    """What comes from one place: the folder below the root of packages, or else the file alone."""
    parts = path.parts
    for i, part in enumerate(parts[:-1]):
        if part in ("site-packages", "dist-packages", "doc"):
            return "/".join(parts[: i + 2])
    return str(path)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""
