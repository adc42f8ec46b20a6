"""The one place that says which version of an op runs: Triton on a GPU, Numba on a CPU, or PyTorch.

The rule: float16, bfloat16 or float32 on a CUDA device runs in Triton, float32 on a CPU in Numba,
everything else, and everything where those are not installed, in plain PyTorch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("specdec")


class Op(Generic[P, R]):
    """An op with up to three versions of one signature; a call runs the one for its tensors.

    `plain` is the PyTorch function, which defines what the op means. `triton` and `numba` are the
    functions of the same name in `specdec.kernels.triton_<module>` and `numba_<module>`, imported
    when first asked for. To force a version, call that attribute; nothing is switched.
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
        return self._twin("numba")

    @functools.cached_property
    def _kinds(self) -> frozenset[str]:
        names = {kind: f"specdec.kernels.{kind}_{self._module}" for kind in ("triton", "numba")}
        return frozenset(k for k, name in names.items() if importlib.util.find_spec(name))

    @property
    def _module(self) -> str:
        return self.plain.__module__.rpartition(".")[2]

    def _twin(self, kind: str) -> Callable[P, R]:
        twin = importlib.import_module(f"specdec.kernels.{kind}_{self._module}")
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
        return "triton" if x.dtype in _HALF_OR_SINGLE and has_triton() else "plain"
    is_numba = x.dtype == torch.float32 and x.device.type == "cpu" and has_numba()
    return "numba" if is_numba else "plain"


_HALF_OR_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed; the first answer for a GPU is logged if it is no."""
    if importlib.util.find_spec("triton") is not None:
        return True
    log.warning("triton is not installed: attention on the GPU runs in plain PyTorch, slowly")
    return False


@functools.cache
def has_numba() -> bool:
    """Whether numba is installed; the first answer for a CPU is logged if it is no."""
    if importlib.util.find_spec("numba") is not None:
        return True
    log.warning("numba is not installed: on the CPU, passes run in plain PyTorch, 2-3x slower")
    return False


def first_tensor(args: Any) -> Tensor:
    """The first argument, or the first tensor in it if it is a nested sequence of tensors."""
    while not isinstance(args, Tensor):
        args = args[0]
    return args
