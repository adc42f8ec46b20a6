"""Released: what stands where a layer's dense weight was, once it has been packed."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from specdec.errors import SpecdecError


class Released(Tensor):
    """A tensor with the shape, dtype and device of a weight, and without its numbers.

    Whoever reads or changes them is told so: nobody multiplies by nothing, or changes what is not
    there. Moving it to where it is is no change.
    """

    @staticmethod
    def __new__(cls, like: Tensor) -> Released:
        one: Released = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, dtype=like.dtype, device=like.device, requires_grad=False
        )
        return one

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Released:
        if func is torch.ops.aten.detach.default:  # how a Parameter is made
            return cls(args[0])
        _refuse(f"{func} was asked of one of them")

    @property
    def data(self) -> Released:
        return self

    @data.setter
    def data(self, other: Tensor) -> None:
        if other is not self:
            _refuse("other numbers were given to one of them")

    def __deepcopy__(self, memo: dict[int, Any]) -> Released:
        _refuse("one of them was copied by itself: copy the whole model")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse("one of them was pickled: use save_pretrained or state_dict")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Released(shape={tuple(self.shape)}, dtype={self.dtype})"


def release(weight: Tensor) -> nn.Parameter:
    """The parameter that takes the place of `weight`."""
    with torch.inference_mode(False):
        return nn.Parameter(Released(weight), requires_grad=False)


def is_released(weight: object) -> bool:
    """Whether a weight's numbers are held elsewhere, packed."""
    return isinstance(weight, Released)


def _refuse(what: str) -> NoReturn:
    raise SpecdecError(
        f"the weights of this model are packed for specdec, and {what}; call "
        "Engine.packing.restore() first, change the model, and make a new Engine"
    )
