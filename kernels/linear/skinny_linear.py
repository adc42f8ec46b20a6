"""skinny_linear: y = x W' + b for few rows, the weight read as it is stored."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.packed_weight import PanelWeight


@dispatched
def skinny_linear(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """`x[..., inputs]`, float32, times a weight in panels, plus `bias[outputs]`: `[..., outputs]`.

    Equal to dequantise-then-multiply within float32 rounding, where x is what the weight is
    multiplied with: see `PanelWeight.seen`.
    """
    return functional.linear(weight.seen(x), weight.dense(), bias)
