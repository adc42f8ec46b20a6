"""Being told when Numba compiles, which takes seconds a kernel, once on a machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from numba.core import event


def on_first_compile(act: Callable[[], None]) -> AbstractContextManager[None]:
    """Calls `act` once if anything is compiled in the block; reading the disk cache is not that."""
    manager: AbstractContextManager[None] = event.install_listener("numba:compile", _First(act))
    return manager


class _First(event.Listener):
    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def on_start(self, event: Any) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()

    def on_end(self, event: Any) -> None:
        """Nothing to do."""
