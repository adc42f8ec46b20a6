"""How many threads the CPU kernels of this process may use, where others want the machine too."""

from __future__ import annotations

import functools
import threading
from pathlib import Path


class ThreadLimit(threading.local):
    """is_fixed: whether this thread has been told a number (`threads=`) and keeps to it."""

    is_fixed = False


_here = ThreadLimit()
_most: list[int] = []  # empty, or the number that `set_limit` has set


def set_limit(count: int | None) -> None:
    """Let kernels use so many threads at most, in all threads of this process; None for no limit.

    What they compute does not change, bit for bit: work is cut as it is without a limit.
    """
    _most[:] = [] if count is None else [count]


def limited(count: int) -> int:
    """Of `count` threads those that may be used now."""
    return min(count, *_most) if _most and not _here.is_fixed else count


def is_fixed() -> bool:
    """Whether this thread does not heed the limit."""
    return _here.is_fixed


def fix(is_fixed: bool) -> bool:
    """Have this thread keep to its number, or heed the limit; returns what it did before."""
    before, _here.is_fixed = _here.is_fixed, is_fixed
    return before


@functools.cache
def cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs that the cgroup grants, rounded up; a very large number where it sets no limit."""
    try:
        limit, period = path.read_text("utf-8").split()
        return max(1, -(-int(limit) // int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or the limit is "max"
        return 1 << 20
