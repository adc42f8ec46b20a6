"""PackedLinear: what stands in for the forward of a linear layer whose weight is packed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.model.held_weight import HeldWeight


class PackedLinear(HeldWeight):
    """A layer's product with its packed weight, for as long as that is the layer's weight.

    One that is given another weight multiplies by that one.
    """

    def __init__(self, module: nn.Linear, weight: PanelWeight) -> None:
        super().__init__(module, weight)
        module.forward = self  # type: ignore[assignment]

    def __call__(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the kernels are not for PyTorch to look into
            out: Tensor = torch.compiler.disable(self._times)(x)
            return out
        return self._times(x)

    def _times(self, x: Tensor) -> Tensor:
        module: Any = self.module
        if self.is_current:
            return skinny_linear(x, self.weight, module.bias)
        return functional.linear(x, module.weight, module.bias)

    @property
    def is_in_place(self) -> bool:
        """Whether calling the layer ends up here."""
        return vars(self.module).get("forward") is self

    def restore(self, dense: nn.Parameter | None = None) -> nn.Parameter | None:
        """Give the layer its own forward and dense weight back."""
        if self.is_in_place:
            del self.module.forward
        return super().restore(dense)
