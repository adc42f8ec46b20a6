"""A progress bar on stderr, and transformers kept quiet meanwhile."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from threading import Lock
from typing import Any

log = logging.getLogger("specdec")
LONG_PROMPT = 8192  # tokens from which reading is worth a bar

# progress(done, total): what a long job calls; total None means unknown.
Progress = Callable[[int, "int | None"], None]


@contextmanager
def progress_bar(title: str, time_left: bool = False) -> Iterator[Progress]:
    """A bar on stderr with percentage and elapsed time; nothing where stderr is no terminal.

    time_left: also how long the rest will take, for jobs of steps that are alike.
    """
    if not (sys.stderr.isatty() and is_speaker()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns: list[ProgressColumn] = [TextColumn(title), BarColumn(), TaskProgressColumn()]
    columns.append(TimeElapsedColumn())
    if time_left:
        columns += [TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left")]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def is_speaker() -> bool:
    """Whether of several processes that make one text this is the one that tells of it."""
    return os.environ.get("RANK", "0") in ("", "0")


def reading_bar(tokens: int) -> AbstractContextManager[Progress]:
    """The bar of a prompt that is being read, with the time left; none for one soon read."""
    if tokens < LONG_PROMPT:
        return nullcontext(lambda done, total: None)
    return progress_bar("Reading the prompt", time_left=True)


@contextmanager
def compiling_line() -> Iterator[None]:
    """A line on stderr as soon as a kernel is compiled in here, and not just read from the cache.

    A bar where stderr is a terminal, else a message to our log.
    """
    from specdec.kernels.dispatch import has_numba

    if not has_numba():
        yield
        return
    from specdec.kernels.cpu.compile_events import on_first_compile

    title = "Compiling kernels for this processor, once (about half a minute)"
    with ExitStack() as shown:

        def show() -> None:
            log.info(title)
            shown.enter_context(progress_bar(title))

        with on_first_compile(show):
            yield


@contextmanager
def quiet_transformers(progress: Progress | None = None) -> Iterator[None]:
    """Silence transformers' bars and warnings; `progress`, if given, hears of its loops instead.

    transformers has one verbosity and one hook for a process: of several threads that load, the
    first one sets them and the last one puts them back, and each hears of its own loops.
    """
    token = _listening.set(progress)
    with _lock:
        _quiet.append(token)
        if len(_quiet) == 1:
            _hushed.enter_context(_hush())
    try:
        yield
    finally:
        _listening.reset(token)
        with _lock:
            _quiet.remove(token)
            if not _quiet:
                _hushed.close()


@contextmanager
def _hush() -> Iterator[None]:
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    hook = logging.set_tqdm_hook(lambda factory, args, kwargs: _Loop(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(hook)
        logging.set_verbosity(verbosity)


_listening: ContextVar[Progress | None] = ContextVar("listening", default=None)
_quiet: list[object] = []  # one for each thread that is loading
_hushed = ExitStack()
_lock = Lock()


class _Loop:
    """The part of tqdm's interface that loops use, told to this thread's `Progress`."""

    def __init__(self, iterable: Any = None, *_: Any, **options: Any) -> None:
        self._progress = _listening.get()
        self._iterable = iterable
        self._total = options.get("total")
        if self._total is None and hasattr(iterable, "__len__"):
            self._total = len(iterable)
        self._done = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def update(self, n: int | float | None = 1) -> None:
        self._done += int(n or 0)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None  # set_description, close, refresh ...

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *_: object) -> None:
        return None
