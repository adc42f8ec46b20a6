"""The attention of a pass as one operator of PyTorch, so that torch.compile works around it.

A compiled graph hands tensors and numbers to an operator, no Python objects; so a pass carries a
handle, a tensor that is an input of the graph and names the pass when the graph runs. What the
operator does to the store is hidden from the compiler, which may not replay it as part of a CUDA
graph: the host decides anew in each pass what is read.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from specdec.forward.attend import attend
from specdec.forward.attention_call import AttentionCall
from specdec.forward.handles import named

_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor handle, int layer, float scale, "
    "float? softcap, int? window) -> Tensor"
)


@custom_op("specdec::attend", mutates_args=(), schema=_SCHEMA, tags=(torch.Tag.cudagraph_unsafe,))
def attend_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    handle: Tensor,
    layer: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention of one layer, `[B, H, N, Dv]`, by the view of the pass that holds the handle."""
    pass_ = named(handle)
    pass_.heard.add(layer)
    call = AttentionCall(layer, q, k, v, scale, softcap, window, sinks)
    return attend(pass_, call)


@attend_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    handle: Tensor,
    layer: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[-1])
