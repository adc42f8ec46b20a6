"""The one place that says which version of an op runs: Triton on a GPU, plain PyTorch elsewhere."""

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
    """An op with two versions of one signature; calling it runs the one for its tensors' device.

    `plain` is the PyTorch function, which defines what the op means. `triton` is the function of
    the same name in `specdec.kernels.triton_<module>`, imported when first asked for, so that a
    machine without triton works. To force a version, call that attribute; nothing is switched.
    """

    def __init__(self, plain: Callable[P, R]) -> None:
        functools.update_wrapper(self, plain)
        self.plain = plain

    @functools.cached_property
    def triton(self) -> Callable[P, R]:
        """The Triton version. Raises ImportError where triton is not installed."""
        package, _, module = self.plain.__module__.rpartition(".")
        twin = importlib.import_module(f"{package}.triton_{module}")
        return cast(Callable[P, R], getattr(twin, self.plain.__name__))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        run = self.triton if has_triton_kernel(first_tensor(args)) else self.plain
        return run(*args, **kwargs)


def dispatched(plain: Callable[P, R]) -> Op[P, R]:
    """Decorator: make the op of a plain function whose first argument holds its main tensors."""
    return Op(plain)


def has_triton_kernel(x: Tensor) -> bool:
    """The rule: float16, bfloat16 or float32 on a CUDA device, with triton installed."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16, torch.float32) and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed; the first answer for a GPU is logged if it is no."""
    if importlib.util.find_spec("triton") is not None:
        return True
    log.warning("triton is not installed: attention on the GPU runs in plain PyTorch, slowly")
    return False


def first_tensor(args: Any) -> Tensor:
    """The first argument, or the first tensor in it if it is a nested sequence of tensors."""
    while not isinstance(args, Tensor):
        args = args[0]
    return args
