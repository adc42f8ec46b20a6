"""How our Numba kernels are compiled, kept on disk and run, and how many rows they take at once."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch
from numba.misc.appdirs import AppDirs

from specdec.kernels.cpu.registers import REGISTER_TILE, TILE_HEIGHTS
from specdec.kernels.cpu.thread_limit import cpu_quota, limited

SERIAL: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
OPTIONS: dict[str, Any] = {**SERIAL, "parallel": True}
INNER: dict[str, Any] = {**SERIAL, "no_cpython_wrapper": True}  # compiled code alone calls it
INLINE: dict[str, Any] = {**INNER, "forceinline": True}
APART: dict[str, Any] = {**INNER, "forceinline": False}  # also when called where it is forced

log = logging.getLogger("specdec")
_forked: list[bool] = []  # not empty in a child of a process that has started its threads


def njit(**options: Any) -> Callable[[Any], Any]:
    """`numba.njit` with a cache on disk, if there is a place for one.

    Numba alone looks at the file of the function that it compiles, and would go on with kernels
    whose parts, in other files, have changed; and it raises where no cache can be written.
    """
    folder = _cache_folder()

    def compiled(function: Any) -> Any:
        if folder is None:
            return numba.njit(**options)(function)
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, folder
        try:
            return numba.njit(cache=True, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return compiled


def inner(function: Any) -> Any:
    """A function for other kernels alone, which have it linked into them: Python cannot call it,
    and it is not kept on disk."""
    return numba.njit(**INNER)(function)


@functools.cache
def _cache_folder() -> str | None:
    """Where compiled kernels are kept: by the contents of all sources that a CPU may run (a comment
    in a Triton kernel recompiles nothing) and the registers they were made for, in NUMBA_CACHE_DIR
    if set, else beside the sources, else in the user's cache; None if nothing of these can be
    written."""
    room = Path(__file__).parents[1]
    sources = sorted(
        path
        for path in room.rglob("*.py")
        if path.parent.name != "gpu" and not path.stem.endswith("_triton")
    )
    contents = b"".join([path.read_bytes() for path in sources] + [repr(REGISTER_TILE).encode()])
    digest = hashlib.sha256(contents).hexdigest()[:16]
    places = (
        [numba.config.CACHE_DIR]
        if numba.config.CACHE_DIR
        else [
            room / "__pycache__",
            AppDirs(appname="numba", appauthor=False).user_cache_dir,
        ]
    )
    for place in places:
        folder = Path(place) / f"specdec-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return str(folder)
        except OSError:
            continue
    log.warning("CPU kernels are compiled anew in each process: set NUMBA_CACHE_DIR to a folder")
    return None


def tile_height(rows: int) -> int:
    """How many of `rows` rows a product takes at once: see `TILE_HEIGHTS`."""
    return next((height for height in TILE_HEIGHTS if rows <= height), TILE_HEIGHTS[-1])


def num_threads() -> int:
    """How many threads work is cut for: as many as PyTorch has, which follows OMP_NUM_THREADS, but
    no more than the container's share of CPUs. So many will run, or fewer on a machine that others
    want as well (`thread_limit`). Raises RuntimeError in a child of a process whose kernels have
    run: OpenMP's threads do not come along, and Numba would end the process."""
    _start_threads()
    if _forked:
        raise RuntimeError(
            "this process was forked after its parent had run CPU kernels, whose threads stayed "
            "behind: start workers with multiprocessing.get_context('spawn'), or fork earlier"
        )
    count = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, cpu_quota())
    if numba.get_num_threads() != (now := limited(count)):
        numba.set_num_threads(now)
    return count


@functools.cache
def _start_threads() -> None:
    """Start Numba's threads, in PyTorch's own OpenMP pool where there is one, and say if not.

    Numba's OpenMP layer binds to the libgomp that PyTorch has loaded, so the two share one pool.
    """
    before = torch.get_num_threads()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _forked.append(True))
    numba.get_num_threads()
    torch.set_num_threads(before)  # in the shared pool Numba has just set its own number
    if numba.threading_layer() == "workqueue":
        log.warning(
            "Numba finds no OpenMP, and its own threads are slower: install libgomp "
            "(Debian, Ubuntu: apt install libgomp1) or `pip install tbb`"
        )
