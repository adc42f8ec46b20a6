"""Which folder is on a disk: files on tmpfs are memory by another name."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

log = logging.getLogger("specdec")

MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")  # file systems whose files lie in memory
_OTHERS = ("/var/tmp", "~/.cache", ".")  # tried in turn where temporary files are memory


def memory_kind(folder: str | Path) -> str | None:
    """The name of the file system in memory that a folder lies on, there or still to be made."""
    import psutil

    path = Path(folder).expanduser().resolve()
    mounts = {Path(x.mountpoint): x.fstype for x in psutil.disk_partitions(all=True)}
    for place in (path, *path.parents):
        if place in mounts:
            return mounts[place] if mounts[place] in MEMORY else None
    return None


def disk_folder(folder: str | Path | None) -> Path:
    """The folder as given; by default one for temporary files that is on a disk, if there is one.

    A folder in memory is told of once, by a warning.
    """
    found = Path(folder).expanduser() if folder else _default(tempfile.gettempdir())
    kind = memory_kind(found)
    if kind is not None:
        _warn(str(found), kind)
    return found


def _default(temporary: str) -> Path:
    if memory_kind(temporary) is None:
        return Path(temporary)
    for other in _OTHERS:
        path = Path(other).expanduser().resolve()
        if path.is_dir() and os.access(path, os.W_OK) and memory_kind(path) is None:
            return path
    return Path(temporary)


@cache
def _warn(folder: str, kind: str) -> None:
    log.warning(
        "%s lies on %s, which is memory: what goes to disk there saves none. Give a folder on a "
        "disk (offload_folder=, --offload-folder)", folder, kind,
    )  # fmt: skip
