"""The one place that says which version of an op runs: Triton on a GPU, Numba on a CPU, or PyTorch.

The rule: float16, bfloat16, float32 and integers on a CUDA device run in Triton, float32 on a CPU
in Numba, everything else, and everything where those are not installed, in plain PyTorch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("specdec")
_numba_lock = threading.RLock()


class Op(Generic[P, R]):
    """An op with up to three versions of one signature; a call runs the one for its tensors.

    `plain` is the PyTorch function, which defines what the op means. `triton` and `numba` are the
    functions of the same name in `<module>_triton` and `<module>_numba` beside it, imported when
    first asked for. To force a version, call that attribute; nothing is switched.
    """

    def __init__(self, plain: Callable[P, R]) -> None:
        functools.update_wrapper(self, plain)
        self.plain = plain

    @functools.cached_property
    def triton(self) -> Callable[P, R]:
        """The Triton version. Raises ImportError where triton is not installed."""
        return self._twin("triton")

    @functools.cached_property
    def numba(self) -> Callable[P, R]:
        """The Numba version. Raises ImportError where numba is not installed."""
        return _one_at_a_time(self._twin("numba"))

    @functools.cached_property
    def _kinds(self) -> frozenset[str]:
        names = {kind: f"{self.plain.__module__}_{kind}" for kind in ("triton", "numba")}
        return frozenset(k for k, name in names.items() if importlib.util.find_spec(name))

    def _twin(self, kind: str) -> Callable[P, R]:
        twin = importlib.import_module(f"{self.plain.__module__}_{kind}")
        return cast(Callable[P, R], getattr(twin, self.plain.__name__))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        kind = kind_for(first_tensor(args))
        if kind not in self._kinds:
            return self.plain(*args, **kwargs)
        return (self.triton if kind == "triton" else self.numba)(*args, **kwargs)


def dispatched(plain: Callable[P, R]) -> Op[P, R]:
    """Decorator: make the op of a plain function whose first argument holds its main tensors."""
    return Op(plain)


def kind_for(x: Tensor) -> str:
    """The rule, for one tensor: "triton", "numba" or "plain"."""
    if x.is_cuda:
        return "triton" if x.dtype in _FOR_TRITON and has_triton() else "plain"
    is_numba = x.dtype == torch.float32 and x.device.type == "cpu" and has_numba()
    return "numba" if is_numba else "plain"


_FOR_TRITON = (torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int64)


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed; the first answer for a GPU is logged if it is no."""
    if importlib.util.find_spec("triton") is not None:
        return True
    log.warning("triton is not installed: attention on the GPU runs in plain PyTorch, slowly")
    return False


@functools.cache
def has_numba() -> bool:
    """Whether numba can be used; the first answer for a CPU is logged if it is no."""
    why = "is not installed"
    if importlib.util.find_spec("numba") is not None:
        try:
            importlib.import_module("numba")
            return True
        except ImportError as error:  # it refuses releases of numpy that it does not know yet
            why = f"cannot be imported ({error})"
    log.warning("numba %s: on the CPU, passes run in plain PyTorch, 2-3x slower", why)
    return False


def _one_at_a_time(kernel: Callable[P, R]) -> Callable[P, R]:
    """A Numba kernel as threads may call it: its work queue, the pool where OpenMP is missing,
    ends the process when two enter it, and one kernel alone uses all cores."""

    @functools.wraps(kernel)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _numba_lock:
            return kernel(*args, **kwargs)

    return call


def first_tensor(args: Any) -> Tensor:
    """The first argument, or the first tensor in it if it is a nested sequence of tensors."""
    while not isinstance(args, Tensor):
        args = args[0]
    return args
