"""The attention of a pass as one operator of PyTorch, so that torch.compile works around it.

A compiled graph hands tensors and numbers to an operator, no Python objects; so a pass carries a
ticket, a tensor that is an input of the graph and names the pass when the graph runs. What the
operator does to the store is hidden from the compiler, which may not replay it as part of a CUDA
graph: the host decides anew in each pass what is read.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.library import custom_op

if TYPE_CHECKING:
    from specdec.forward.forward_pass import ForwardPass

_tickets = count()
_passes: WeakValueDictionary[int, ForwardPass] = WeakValueDictionary()

_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor ticket, int layer, float scale, "
    "float? softcap, int? window) -> Tensor"
)


def ticket_of(pass_: ForwardPass) -> Tensor:
    """A new ticket, `int64[]`, by which the operator finds `pass_` for as long as it lives."""
    number = next(_tickets)
    _passes[number] = pass_
    return torch.tensor(number)


@custom_op("specdec::attend", mutates_args=(), schema=_SCHEMA, tags=(torch.Tag.cudagraph_unsafe,))
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    ticket: Tensor,
    layer: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention of one layer, `[B, H, N, Dv]`, by the view of the pass that holds the ticket."""
    from specdec.forward.forward_pass import AttentionCall

    pass_ = _passes[int(ticket)]
    pass_.heard.add(layer)
    call = AttentionCall(layer, q, k, v, scale, softcap, window, sinks)
    return pass_.view.attend(pass_, call)


@attend.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    ticket: Tensor,
    layer: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[-1])
