"""Crowd: a machine that others want as well, and how many threads are worth having on it.

A pass enters some 150 parallel regions, and each ends when its last thread does. One that waits for
a CPU holds up all others, which meanwhile spin and take CPUs from it: beside one other process like
us, decoding on all cores falls to a few percent of its speed, where on fewer it keeps its share. So
threads are given up as long as waiting for CPUs costs more than they bring, and taken back when
CPUs are idle.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from time import perf_counter, process_time

from specdec.kernels.cpu.thread_limit import is_fixed, set_limit

log = logging.getLogger("specdec")

PERIOD = 0.25  # seconds between two looks; one takes a tenth of a millisecond
PATIENCE = 30.0  # the longest wait before threads are tried again that were in vain
_FREE = 0.75  # of a CPU that must be idle for a thread to be added
_LATE = 5.0  # a look so long after the last one says nothing of this text
SLOW, MANY = 4.0, 32  # passes so many times as slow as usual, so many in a row, are told of


class Crowd:
    """Gives up threads of the CPU kernels and takes them back, in `kernels.thread_limit`.

    waited: seconds that this process's threads have waited for a CPU, in sum; idle: seconds that
    the CPUs they may run on had nothing to do; both None where the system does not tell. Then
    nothing is ever given up.
    """

    def __init__(
        self,
        waited: Callable[[], float | None],
        idle: Callable[[], float | None],
        clock: Callable[[], float] = perf_counter,
        used: Callable[[], float] = process_time,
    ) -> None:
        self._waited, self._idle, self._clock, self._used = waited, idle, clock, used
        self.count: int | None = None  # of threads, where fewer than all
        self._seen = clock(), waited(), idle(), used()
        self._is_first = True
        self._retry_at, self._patience = 0.0, PERIOD
        self._grew_at = -PATIENCE
        self._slow = 0

    def look(self, threads: int) -> None:
        """Between two passes: see whether some of `threads` should be given up or taken back."""
        now = self._clock()
        if now - self._seen[0] < PERIOD or threads < 2 or is_fixed():
            return
        before, self._seen = self._seen, (now, self._waited(), self._idle(), self._used())
        seconds = now - before[0]
        waited, idle, used = (
            None if one is None or other is None else max(0.0, other - one) / seconds
            for one, other in zip(before[1:], self._seen[1:], strict=True)
        )
        is_first, self._is_first = self._is_first, False
        if waited is None or idle is None or used is None:
            return
        count = min(self.count or threads, threads)
        if is_first:  # since this process began
            self._use(max(1, min(threads, round(idle + used))), threads)
        elif seconds < _LATE:
            step = max(1, count // 4)
            if count > 1 and waited > step / count:
                self._give_up(count - step, threads, now)
            elif now >= self._retry_at and waited < 0.5 * step / count and idle > _FREE:
                self._take_back(count + max(1, int(idle)), threads, now)

    def compare(self, slowness: float) -> None:
        """Warn, once in a process, when passes go on being many times as slow as usual."""
        if self._slow < 0:
            return
        self._slow = self._slow + 1 if slowness > SLOW else 0
        if self._slow == MANY:
            self._slow = -1
            log.warning(
                "passes take %.0f times as long as they did when this machine was measured: others "
                "use its CPUs. End them, or let fewer threads compete (threads=, --threads)",
                slowness,
            )

    def _give_up(self, count: int, threads: int, now: float) -> None:
        in_vain = now - self._grew_at < 4 * PERIOD
        self._patience = min(2 * self._patience, PATIENCE) if in_vain else PERIOD
        self._retry_at = now + self._patience
        self._use(count, threads)

    def _take_back(self, count: int, threads: int, now: float) -> None:
        if self.count is not None:
            self._grew_at = now
            self._use(min(threads, count), threads)

    def _use(self, count: int, threads: int) -> None:
        wanted = None if count >= threads else count
        if wanted != self.count:
            log.info("%d of %d threads: %s", count, threads,
                     "all are used" if wanted is None else "others want the CPUs")  # fmt: skip
        self.count = wanted
        set_limit(wanted)


def waited() -> float | None:
    """Seconds that the threads of this process have waited for a CPU; Linux tells."""
    total = 0
    try:
        for task in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{task}/schedstat", "rb") as file:
                    total += int(file.read().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                if not os.path.exists("/proc/self/schedstat"):
                    return None
                # this thread has ended meanwhile
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def idle() -> float | None:
    """Seconds that the CPUs which this process may use had nothing to do; Linux tells."""
    try:
        mine = {b"cpu%d" % cpu for cpu in os.sched_getaffinity(0)}
        with open("/proc/stat", "rb") as file:
            lines = [line.split() for line in file if line.startswith(b"cpu")]
        ticks = sum(int(line[4]) + int(line[5]) for line in lines if line[0] in mine)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None


crowd = Crowd(waited, idle)  # of this process: all its engines use the same CPUs
