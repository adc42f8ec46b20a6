"""What the cache folder holds: listed by kind, with sizes and ages, and removed."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from specdec.cachedir import cache_root
from specdec.errors import InvalidArgument, WeightsError, unknown_name

# Kind -> (a folder within the cache, the names in it that are ours, what they are).
_KINDS = {
    "demo": ("demo", r".+\.gguf", "weights of the demo model"),
    "costs": ("costs", r"[0-9a-f]{24}\.json", "how long passes take on this machine"),
    "channels": ("channels", r"[0-9a-f]+", "label channels of models"),
    "tokenizers": ("tokenizers", r"[0-9a-f]{32}", "tokenizers of GGUF files, as they were built"),
    "llama.cpp": ("gguf", r"[0-9a-f]{32}-llama\.cpp-float32-v\d+", "float32 copies, to measure"),
    "converted": (
        "gguf",
        r"[0-9a-f]{32}-(float|bfloat)\d+-v\d+|[0-9a-f-]{36}\.json",
        "conversions of an earlier release, which nothing reads any more",
    ),
}
_UNFINISHED = "unfinished"  # of every folder
_STORIES = {kind: story for kind, (_, _, story) in _KINDS.items()} | {
    _UNFINISHED: "what interrupted processes left behind, or is being made now"
}


@dataclass(frozen=True)
class Entry:
    """A file or folder of ours in the cache. modified: seconds since 1970."""

    kind: str
    path: Path
    nbytes: int
    modified: float

    @property
    def name(self) -> str:
        """Its path within the cache, by which it can be cleared."""
        return self.path.relative_to(cache_root()).as_posix()

    @property
    def story(self) -> str:
        return _STORIES[self.kind]

    @property
    def age(self) -> float:
        """Seconds since it was last changed."""
        return max(0.0, time.time() - self.modified)


def entries() -> list[Entry]:
    """All that is ours in the cache, by kind and the largest first; other files are not ours."""
    found = []
    for folder in sorted({folder for folder, _, _ in _KINDS.values()}):
        for path in _children(cache_root() / folder):
            kind = _kind(folder, path.name)
            if kind is not None:
                found.append(Entry(kind, path, *_measured(path)))
    order = list(_STORIES)
    return sorted(found, key=lambda entry: (order.index(entry.kind), -entry.nbytes, entry.name))


def chosen(names: Sequence[str]) -> list[Entry]:
    """The entries of these kinds and names. Raises InvalidArgument for one that is neither."""
    everything = entries()
    known = {*_STORIES, *(entry.name for entry in everything)}
    for name in names:
        if name not in known:
            raise unknown_name("kind or entry of the cache", name, known)
    return [entry for entry in everything if {entry.kind, entry.name} & set(names)]


def remove(gone: Iterable[Entry]) -> list[Entry]:
    """Delete entries, each as a whole: it is out of sight before its files go. Links are not
    followed. Raises WeightsError for one that cannot be deleted."""
    removed = []
    for entry in gone:
        aside = entry.path.with_name(f".unfinished-{entry.path.name}-{os.getpid()}")
        try:
            os.replace(entry.path, aside)
            if aside.is_dir() and not aside.is_symlink():
                shutil.rmtree(aside)
            else:
                aside.unlink()
        except FileNotFoundError:
            continue  # another process was first
        except OSError as error:
            raise WeightsError(f"{entry.path} cannot be deleted: {error}") from error
        removed.append(entry)
    return removed


def need(kinds_or_names: Sequence[str], everything: bool) -> list[Entry]:
    """What is to be cleared: some, or everything, and not both or neither."""
    if everything == bool(kinds_or_names):
        raise InvalidArgument(
            f"name what to clear, or give --all: kinds are {', '.join(_STORIES)}, and `specdec "
            "cache` lists every entry"
        )
    return entries() if everything else chosen(kinds_or_names)


def _kind(folder: str, name: str) -> str | None:
    if name.startswith(".unfinished-"):
        return _UNFINISHED
    for kind, (place, pattern, _) in _KINDS.items():
        if place == folder and re.fullmatch(pattern, name):
            return kind
    return None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []  # not there, or no folder: nothing of ours


def _measured(path: Path) -> tuple[int, float]:
    """Bytes of a file, or of all files in a folder, and the last time that one was changed."""
    files = [path]
    if path.is_dir() and not path.is_symlink():
        files += [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    sizes, times = [], []
    for file in files:
        try:
            status = file.lstat()
        except OSError:
            continue  # gone meanwhile
        sizes.append(0 if file is path and len(files) > 1 else status.st_size)
        times.append(status.st_mtime)
    return sum(sizes), max(times, default=0.0)
