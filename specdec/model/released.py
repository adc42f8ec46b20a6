"""Released: a weight that is held in panels, in place of the dense one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.errors import SpecdecError
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.weight_rows import weight_rows


class InPanels(Tensor):
    """A float32 tensor on the CPU whose numbers are those of `panels`, and are nowhere else.

    Whoever reads or changes them is told: nobody multiplies by nothing, or changes what is not
    there. Moving it to where it is is no change.
    """

    panels: Any

    @staticmethod
    def __new__(cls, panels: Any) -> Any:
        one = torch.Tensor._make_wrapper_subclass(
            cls, cls.shape_of(panels), dtype=torch.float32, requires_grad=False
        )
        one.panels = panels
        return one

    @staticmethod
    def shape_of(panels: Any) -> tuple[int, ...]:
        raise NotImplementedError

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:  # how a Parameter is made
            with torch.inference_mode(False):  # in such a mode PyTorch cannot set its version
                return cls(args[0].panels)
        _refuse(f"{func} was asked of one of them")

    @property
    def data(self) -> Any:
        return self

    @data.setter
    def data(self, other: Tensor) -> None:
        if other is not self:
            _refuse("other numbers were given to one of them")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        _refuse("one of them was copied by itself: copy the whole model")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse("one of them was pickled: use save_pretrained or state_dict")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}(shape={tuple(self.shape)})"


class Released(InPanels):
    """A matrix in panels: a product or a look-up by it is that of its numbers (a product by a dense
    copy made for it: see `PackedLinear` for a fast one)."""

    panels: PanelWeight

    @staticmethod
    def shape_of(panels: PanelWeight) -> tuple[int, ...]:
        return panels.outputs, panels.inputs

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.linear:
            return _product(*args, **(kwargs or {}))
        if func is functional.embedding:
            return _looked_up(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Released({self.panels.format}, shape={tuple(self.shape)})"


def release(panels: PanelWeight) -> nn.Parameter:
    """The parameter of a module whose weight is held in `panels`."""
    with torch.inference_mode(False):
        return nn.Parameter(Released(panels), requires_grad=False)


def is_released(weight: object) -> bool:
    """Whether a weight's numbers are held in panels."""
    return isinstance(weight, Released)


def panels_of(weight: object) -> PanelWeight | None:
    """The panels that hold a weight; None for one that holds its own numbers."""
    return weight.panels if isinstance(weight, Released) else None


def released_in(model: nn.Module) -> Iterator[PanelWeight]:
    """The panels of all released weights of a model, each once; not those of experts."""
    found = {id(p): p for p in map(panels_of, model.parameters()) if p is not None}
    return iter(found.values())


def _product(x: Tensor, weight: Released, bias: Tensor | None = None) -> Tensor:
    if isinstance(x, Released):
        _refuse("one of them was given to be multiplied")
    return functional.linear(x, weight.panels.dense(), bias)


def _looked_up(
    ids: Tensor,
    weight: Released,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *_: Any,
    **__: Any,
) -> Tensor:
    """Rows of the weight; the other arguments are of gradients, and there are none."""
    panels, flat = weight.panels, ids.reshape(-1).long()
    if max_norm is not None:
        _refuse("max_norm would change one of them")
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < panels.outputs:
        raise IndexError(f"ids are from 0 to {panels.outputs - 1}, and one of these is not")
    out = weight_rows(torch.empty(len(flat), panels.inputs), panels, flat)
    return out.view(*ids.shape, panels.inputs)


def _refuse(what: str) -> NoReturn:
    raise SpecdecError(
        f"the weights of this model are packed for specdec, and {what}; call "
        "Engine.packing.restore() first, change the model, and make a new Engine"
    )
