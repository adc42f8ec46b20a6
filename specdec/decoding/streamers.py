"""Streamers: who is handed a text as it comes is always told that it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ended_on_error(streamer: Any) -> Iterator[None]:
    """Call `streamer.end()` if there is one and this context is left by an error.

    A TextIteratorStreamer is read in another thread, which would wait for ever.
    """
    try:
        yield
    except BaseException:
        end = getattr(streamer, "end", None)
        if callable(end):
            end()
        raise


class EndedOnce:
    """A streamer that is told at most once that the text is over, whoever else says so."""

    def __init__(self, streamer: Any) -> None:
        self.streamer, self._is_over = streamer, False

    def put(self, value: Any) -> None:
        self.streamer.put(value)

    def end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.streamer.end()
