"""Threads: how many CPU threads an engine's passes use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from specdec.errors import InvalidArgument
from specdec.kernels.cpu.thread_limit import fix
from specdec.kernels.dispatch import has_numba


class Threads:
    """A number of threads, for PyTorch and our kernels alike.

    count: so many, exactly; None for what PyTorch has (OMP_NUM_THREADS, torch.set_num_threads), or
    fewer as long as the machine is crowded. Raises InvalidArgument for a number that cannot be had.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None:
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InvalidArgument(f"threads={count!r}: give a number from 1, or None")
            if count > (most := _most()):
                raise InvalidArgument(
                    f"threads={count} are more than the {most} that this process may have, which "
                    "are the machine's CPUs or NUMBA_NUM_THREADS: give no more than that"
                )
        self.count = count

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have passes run with them; afterwards all is as it was."""
        if self.count is None:
            yield
            return
        before, was_fixed = torch.get_num_threads(), fix(True)
        try:
            if before != self.count:
                torch.set_num_threads(self.count)
            yield
        finally:
            fix(was_fixed)
            if before != self.count:
                torch.set_num_threads(before)


def _most() -> int:
    """The most threads that kernels can have in this process."""
    if not has_numba():
        return os.cpu_count() or 1
    import numba

    return int(numba.config.NUMBA_NUM_THREADS)
