"""The two halves of a decoder layer around its attention, each one call on a CPU.

`attention_inputs`: norm, q/k/v projections, head norms, rotary embedding. `layer_output`: output
projection, residual, norm, gated MLP, residual. What lies between two matrix products is a few
thousand numbers and done by one thread; the products are done by all.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.cpu.function_pointers import call_pointer
from specdec.kernels.cpu.jit import OPTIONS, njit, num_threads, tile_height
from specdec.kernels.cpu.work_stealing import num_shares, shares
from specdec.kernels.linear.decoder_block import AttentionInputs, LayerOutput
from specdec.kernels.linear.gemm.entry_points import gated, prepare, prepared_again, share
from specdec.kernels.linear.layer_arguments_numba import (
    input_calls,
    input_weights,
    output_calls,
    output_weights,
)
from specdec.kernels.linear.packed_formats import PANEL
from specdec.kernels.linear.row_ops_numba import (
    add_residual,
    heads_apart,
    heads_together,
    normed,
    zeroed,
)


def attention_inputs(
    x: Tensor, layer: AttentionInputs, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `specdec.kernels.linear.decoder_block`."""
    num_threads()
    batch, nodes, _ = x.shape
    weights, height = input_weights(layer), tile_height(batch * nodes)
    heads, kv_heads, dim = weights[-1][1:]
    if len(cos) != batch:
        cos, sin = (t.expand(batch, -1, -1).contiguous() for t in (cos, sin))
    q, k, v = make_inputs(
        x.numpy().reshape(-1),
        batch * nodes,
        nodes,
        *weights[:-1],
        cos.numpy().reshape(-1),
        sin.numpy().reshape(-1),
        weights[-1],
        height,
        input_calls(layer, height),
    )
    kv_shape = (batch, kv_heads, nodes, dim)
    return (
        torch.from_numpy(q.reshape(batch, heads, nodes, dim)),
        torch.from_numpy(k.reshape(kv_shape)),
        torch.from_numpy(v.reshape(kv_shape)),
    )


def layer_output(x: Tensor, o: Tensor, layer: LayerOutput) -> Tensor:
    """See `specdec.kernels.linear.decoder_block`."""
    num_threads()
    batch, nodes, hidden = x.shape
    height = tile_height(batch * nodes)
    out = make_output(
        x.numpy().reshape(-1),
        o.numpy().reshape(-1),
        batch * nodes,
        nodes,
        *output_weights(layer),
        (hidden, o.shape[1], o.shape[3], layer.gate.weight.outputs),
        height,
        output_calls(layer, height),
    )
    return torch.from_numpy(out.reshape(x.shape))


@njit(**OPTIONS)
def make_inputs(
    x, n, nodes, norm, eps, wq, wk, wv, biases, head_norms, head_eps, cos, sin, shape, height, calls
):
    """Queries, keys and values `[B, heads, nodes, dim]` (flat) of `x[n, hidden]`, n = B * nodes.

    norm[hidden], biases (q, k, v: padded to panels, or empty), head_norms (q, k: `[dim]` or empty)
    with head_eps, cos, sin `[n, rotary]`; shape (hidden, heads, kv_heads, dim); height: of tiles;
    calls: of `input_calls`.
    """
    hidden, heads, kv_heads, dim = shape
    bias_q, bias_k, bias_v = biases
    rows = (n + height - 1) // height * height
    h = normed(x, n, rows, norm, eps, hidden)
    (prepare_q, product_q, share_q), (prepare_k, product_k, share_k), v_calls = calls
    prepare_v, product_v, share_v = v_calls
    h_q, sums_q = call_pointer(prepare, prepare_q, (wq, h, rows, hidden))
    h_k, sums_k = prepared_again(wk, h, rows, hidden, prepare_k, wq, prepare_q, (h_q, sums_q))
    h_v, sums_v = prepared_again(wv, h, rows, hidden, prepare_v, wk, prepare_k, (h_k, sums_k))
    q_size, kv_size = heads * dim, kv_heads * dim
    q = np.empty(n * q_size, np.float32)
    k = np.empty(n * kv_size, np.float32)
    v = np.empty(n * kv_size, np.float32)
    q_panels, kv_panels = (q_size + PANEL - 1) // PANEL, (kv_size + PANEL - 1) // PANEL
    q_todo, k_todo, v_todo = shares(q_panels), shares(kv_panels), shares(kv_panels)
    for t in prange(num_shares(q_todo)):
        given = q_todo, t, q_panels, q, wq, h_q, sums_q, bias_q, n, hidden, q_size, product_q
        call_pointer(share, share_q, given)
        given_k = k_todo, t, kv_panels, k, wk, h_k, sums_k, bias_k, n, hidden, kv_size, product_k
        call_pointer(share, share_k, given_k)
        given_v = v_todo, t, kv_panels, v, wv, h_v, sums_v, bias_v, n, hidden, kv_size, product_v
        call_pointer(share, share_v, given_v)
    return (
        heads_apart(q, n, nodes, heads, dim, head_norms[0], head_eps[0], cos, sin),
        heads_apart(k, n, nodes, kv_heads, dim, head_norms[1], head_eps[1], cos, sin),
        heads_apart(v, n, nodes, kv_heads, dim, cos[:0], 0.0, cos[:0], sin[:0]),
    )


@njit(**OPTIONS)
def make_output(
    x,
    o,
    n,
    nodes,
    wo,
    o_bias,
    post_norm,
    mlp_norm,
    mlp_post_norm,
    epsilons,
    wg,
    wu,
    wd,
    biases,
    activation,
    shape,
    height,
    calls,
):
    """The layer's output `[n, hidden]` from its input x and attention `o[B, heads, nodes, dim]`.

    All flat. post_norm, mlp_post_norm `[hidden]` or empty; epsilons of the three norms; biases
    (gate, up, down: padded to panels, or empty); shape (hidden, heads, dim, intermediate); height:
    of tiles; calls: of `output_calls`.
    """
    hidden, heads, dim, wide = shape
    (call_o, call_g, call_u, call_d), gated_at = calls
    prepare_o, product_o, share_o = call_o
    prepare_g, product_g, _ = call_g
    prepare_u, product_u, _ = call_u
    prepare_d, product_d, share_d = call_d
    bias_g, bias_u, bias_d = biases
    rows = (n + height - 1) // height * height
    a = heads_together(o, n, rows, nodes, heads, dim)
    a_o, sums_o = call_pointer(prepare, prepare_o, (wo, a, rows, heads * dim))
    y = np.empty(n * hidden, np.float32)
    panels, wide_panels = (hidden + PANEL - 1) // PANEL, (wide + PANEL - 1) // PANEL
    todo = shares(panels)
    for t in prange(num_shares(todo)):
        given = todo, t, panels, y, wo, a_o, sums_o, o_bias, n, heads * dim, hidden, product_o
        call_pointer(share, share_o, given)

    add_residual(y, x, n, hidden, post_norm, epsilons[0])
    h = normed(y, n, rows, mlp_norm, epsilons[1], hidden)
    h_g, sums_g = call_pointer(prepare, prepare_g, (wg, h, rows, hidden))
    h_u, sums_u = prepared_again(wu, h, rows, hidden, prepare_u, wg, prepare_g, (h_g, sums_g))
    m = zeroed(rows * wide)
    todo_m = shares(wide_panels)
    for t in prange(num_shares(todo_m)):
        given_m = (
            todo_m, t, wide_panels, m, (wg, wu), (h_g, h_u), (sums_g, sums_u), (bias_g, bias_u),
            n, hidden, wide, activation, (product_g, product_u),
        )  # fmt: skip
        call_pointer(gated, gated_at, given_m)

    m_d, sums_d = call_pointer(prepare, prepare_d, (wd, m, rows, wide))
    out = np.empty(n * hidden, np.float32)
    todo_d = shares(panels)
    for t in prange(num_shares(todo_d)):
        given_d = todo_d, t, panels, out, wd, m_d, sums_d, bias_d, n, wide, hidden, product_d
        call_pointer(share, share_d, given_d)
    add_residual(out, y, n, hidden, mlp_post_norm, epsilons[2])
    return out
