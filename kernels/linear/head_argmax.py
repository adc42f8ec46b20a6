"""head_argmax: the best token of each row of an LM head, where nobody asks for its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.skinny_linear import skinny_linear


@dispatched
def head_argmax(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """argmax over the outputs of `skinny_linear(x, weight, bias)`: `int64[...]`.

    The lowest of equal outputs is chosen, as `Tensor.argmax` does; -1 where an output is NaN, or
    all are -inf. Each version compares the very numbers that its own `skinny_linear` returns, so a
    text does not depend on which of the two chose its tokens.
    """
    return best_of(skinny_linear.plain(x, weight, bias))


def best_of(logits: Tensor) -> Tensor:
    """argmax of `logits[..., V]`, `int64[...]`; -1 where one is NaN, or all are -inf."""
    best = logits.argmax(-1, keepdim=True)  # the first NaN, if there is one
    return best.where(logits.gather(-1, best) > -torch.inf, -1)[..., 0]
