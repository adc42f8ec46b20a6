"""Files that are mapped into memory: opened, and their pages let go of once they have been read."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_file(path: Path) -> mmap.mmap:
    """The whole of a file, to be read; it stays mapped as long as arrays over it live."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def forget(array: NDArray[Any]) -> None:
    """Let go of the memory that the pages behind a view of a mapped file take.

    Who reads them again has them read from the file again. Nothing where the system has no such
    call, or for an array that is no such view.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = array.ctypes.data - np.frombuffer(base, np.uint8, 1).ctypes.data
    start = first // mmap.PAGESIZE * mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, start, first + array.nbytes - start)
