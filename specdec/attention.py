"""The attention function through which unmodified transformers models read our store.

transformers passes unknown keyword arguments of `model(...)` down to the attention function of
every layer, so the pass travels as an argument: nothing is patched and nothing is global but the
name in transformers' own table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from specdec.attention_op import attend
from specdec.errors import SpecdecError
from specdec.forward_pass import AttentionCall, ForwardPass

NAME = "specdec"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    specdec_pass: ForwardPass | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention seam: `query[B, H, N, D]` in, `[B, N, H, Dv]` out."""
    pass_ = required(specdec_pass)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    query = query.contiguous()  # heads outermost, so that a group packs without a copy
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.compiler.is_compiling():
        ticket = pass_.ticket
        out = attend(query, key, value, s_aux, ticket, layer, scale, softcap, sliding_window)
    else:
        call = AttentionCall(layer, query, key, value, scale, softcap, sliding_window, s_aux)
        out = pass_.view.attend(pass_, call)
    return out.transpose(1, 2).contiguous(), None


def required(specdec_pass: ForwardPass | None) -> ForwardPass:
    """The pass; raises SpecdecError where somebody else called the model."""
    if specdec_pass is None:
        raise SpecdecError(
            "this model is driven by specdec and was called without a pass; use Engine.generate, "
            "or Engine.packing.restore() and model.set_attn_implementation('sdpa') to use it alone"
        )
    return specdec_pass


def register() -> None:
    """Put our function into transformers' table under its name; doing so again changes nothing.

    Masks are ours: the prefix needs none, and the staged corner has the ancestor bitmask. A name
    without an entry in the table of mask functions has transformers make none, and ask nothing
    of the positions either, which on a GPU would wait for the device.
    """
    AttentionInterface.register(NAME, attention)


@contextmanager
def driven(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's attention is ours; afterwards it is what it was."""
    before = model.config._attn_implementation
    register()
    model.set_attn_implementation(NAME)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.set_attn_implementation(before)
        model.train(was_training)
