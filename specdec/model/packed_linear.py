"""PackedLinear: what stands in for the forward of a linear layer whose weight is packed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.errors import SpecdecError
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.model.released import is_released, release

_SAMPLE = 4096  # numbers of a dense weight that are looked at to see whether it is still the same


class PackedLinear:
    """A layer's product with its packed weight, for as long as that is the layer's weight.

    keep: leave the layer its dense weight, which an embedding shares; else it is released. A layer
    that is given another weight, or whose dense one is changed in place, multiplies by that one.
    """

    def __init__(self, module: nn.Linear, weight: PanelWeight, keep: bool) -> None:
        self.module, self.weight = module, weight
        self.keeps = keep
        if not keep:
            module.weight = release(module.weight)
        self.own = module.weight
        self._version, self._address = version(self.own), self.own.data_ptr()
        self._sample = _sampled(self.own) if keep else None
        self._is_stale = False

        def unpack(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
            if is_released(state.get(prefix + "weight")):
                state[prefix + "weight"] = weight.dense()

        module.forward = self  # type: ignore[assignment]
        self.hooks: list[Any] = [
            module.register_state_dict_post_hook(unpack),
            module.register_load_state_dict_pre_hook(refuse_loading),
        ]

    def __call__(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the kernels are not for PyTorch to look into
            out: Tensor = torch.compiler.disable(self._times)(x)
            return out
        return self._times(x)

    def _times(self, x: Tensor) -> Tensor:
        if self.is_current:
            return skinny_linear(x, self.weight, self.module.bias)
        return functional.linear(x, self.module.weight, self.module.bias)

    @property
    def is_current(self) -> bool:
        """Whether the packed weight holds the numbers of the layer's own: asked in every pass."""
        if self.module._parameters.get("weight") is not self.own:
            return False
        if not self.keeps:
            return True
        moved = self.own._version if self._version is not None else None
        return not self._is_stale and moved == self._version

    @property
    def is_in_place(self) -> bool:
        """Whether calling the layer ends up here."""
        return vars(self.module).get("forward") is self

    def look(self) -> bool:
        """Whether a weight that was kept still is what was packed, with a sample of its numbers:
        what is written past its counter of changes (`weight.data.mul_`) is seen so."""
        if self.keeps and not self._is_stale and self.is_current:
            same = self.own.data_ptr() == self._address
            self._is_stale = not (same and torch.equal(_sampled(self.own), self._sample))  # type: ignore[arg-type]
        return self.is_current

    def restore(self) -> None:
        """Give the layer its own forward and dense weight back."""
        for hook in self.hooks:
            hook.remove()
        if self.is_in_place:
            del self.module.forward
        if is_released(self.module._parameters.get("weight")):
            self.module.weight = nn.Parameter(self.weight.dense(), requires_grad=False)


def refuse_loading(*_: Any) -> None:
    """A hook of whatever holds packed layers: loading would leave them as they are."""
    raise SpecdecError(
        "the weights of this model are packed for specdec: call Engine.packing.restore() "
        "before you load others, and make a new Engine"
    )


def version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None of one that does not count."""
    return None if tensor.is_inference() else tensor._version


def _sampled(weight: Tensor) -> Tensor:
    """Numbers from all over a matrix, one column after the other on the way down."""
    flat = weight.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLE) | 1  # odd, so that columns are not all alike
    return flat[::step].clone()
