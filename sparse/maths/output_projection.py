"""output_projection: what a layer makes of its attention heads' outputs, as a matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specdec.errors import UnsupportedModel
from specdec.model.target import Target

NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo")  # in transformers' attention classes


@torch.inference_mode()
def output_projection(target: Target, layer: int, heads: int, dim: int, view: str) -> Tensor:
    """W_o `[heads, dim, hidden]` of a layer with so many query heads and channels of a value.

    It is asked of the module, whatever its weights are stored as: what it makes of unit vectors,
    but for its bias. Raises UnsupportedModel, for the `view` that asks, where it is not found.
    """
    projection = _projection(target, layer)
    like = next(target.model.parameters())
    units = torch.eye(heads * dim, dtype=like.dtype, device=like.device)
    try:
        out = projection(units) - projection(torch.zeros_like(units[:1]))
    except (RuntimeError, TypeError):  # none, or of another width
        raise UnsupportedModel(
            f"view {view!r} needs the output projection of attention, and that of layer {layer} of "
            f"{type(target.model).__name__} was not found: give another view"
        ) from None
    made: Tensor = out
    return made.view(heads, dim, -1)


def _projection(target: Target, layer: int) -> Any:
    for module in target.decoder.modules():
        if getattr(module, "layer_idx", None) == layer:
            for name in NAMES:
                if hasattr(module, name):
                    return getattr(module, name)
    return None
