"""Partials of attention that host passes and static ones share: over a staged tree, and sinks."""

from __future__ import annotations

from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.plan import Partial
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.kernels.precision import wide_dtype


def tree_partial(pass_: ForwardPass, call: AttentionCall, k: Tensor, v: Tensor) -> Partial:
    """Over staged `k, v[B, Hkv, S, D]`, as the ancestor mask has it."""
    assert pass_.anc is not None
    return tree_attention(
        call.q,
        k,
        v,
        pass_.anc,
        scale=call.scale,
        softcap=call.softcap,
        window=call.window,
        q_positions=pass_.positions,
        k_positions=pass_.staged_positions,
    )


def sink_partial(call: AttentionCall) -> Partial:
    """Attention sinks: weight in the softmax, but no value."""
    assert call.sinks is not None
    batch, heads, nodes, _ = call.q.shape
    dtype = wide_dtype(call.q.dtype)
    o = call.q.new_zeros(batch, heads, nodes, call.v.shape[-1], dtype=dtype)
    return o, call.sinks.to(dtype)[None, :, None].expand(batch, heads, nodes)
