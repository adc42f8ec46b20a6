"""head_argmax: the best token of each row of an LM head, where nobody asks for its logits."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.skinny_linear import skinny_linear


@dispatched
def head_argmax(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """argmax over the outputs of `skinny_linear(x, weight, bias)`: `int64[...]`.

    The lowest of equal outputs is chosen, and the first NaN before all numbers, as `Tensor.argmax`
    does. Each version compares the very numbers that its own `skinny_linear` returns, so a text
    does not depend on which of the two chose its tokens.
    """
    return skinny_linear.plain(x, weight, bias).argmax(-1)
