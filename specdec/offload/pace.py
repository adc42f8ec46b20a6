"""Pace: a bound on bytes per second, so that a slower link can be tried on a faster one."""

from __future__ import annotations

from time import perf_counter, sleep


class Pace:
    """Counts what a link moves and how long it took; with a rate, it takes at least that long.

    rate: bytes per second, or None for as fast as the link is.
    """

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self.moved = 0
        self.seconds = 0.0

    @property
    def reached(self) -> float | None:
        """Bytes per second so far, or None before the first transfer."""
        return self.moved / self.seconds if self.seconds else None

    def after(self, nbytes: int, started: float) -> None:
        """Note a transfer that began at `perf_counter() == started`, and wait if it was fast."""
        if self.rate is not None:
            sleep(max(0.0, nbytes / self.rate - (perf_counter() - started)))
        self.moved += nbytes
        self.seconds += perf_counter() - started
