"""packed_linear: y = x W' + b for few rows, with W laid out once for this CPU.

`F.linear` in float32 on a CPU reaches half of the memory bandwidth at one row and doubles its time
at two. oneDNN's own blocked weight layout, which PyTorch exposes for its compiler, does neither:
on all linear layers of SmolLM2-135M (2 cores, AVX-512) 47 -> 29 ms for one row and 74 -> 35 ms for
eight. The layout can be turned back into the same bits with `to_dense`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_pack(weight: Tensor) -> bool:
    """Whether `pack` takes this weight: a float32 matrix on a CPU whose PyTorch has oneDNN."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.dim() == 2
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack(weight: Tensor) -> Tensor:
    """A copy of `weight[out, in]` in oneDNN's layout; `.to_dense()` gives the same bits back."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x[..., in]` times a packed weight, plus `bias[out]`: `[..., out]`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
