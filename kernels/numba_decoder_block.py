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

from specdec.kernels import simd
from specdec.kernels.decoder_block import AttentionInputs, LayerOutput
from specdec.kernels.numba_far_calls import far_call
from specdec.kernels.numba_layer_weights import (
    input_calls,
    input_weights,
    output_calls,
    output_weights,
)
from specdec.kernels.numba_options import OPTIONS, njit, num_threads, tile
from specdec.kernels.numba_panel_inputs import prepared, prepared_again
from specdec.kernels.numba_panels import panel_product
from specdec.kernels.numba_row_ops import (
    activated,
    add_residual,
    biased,
    heads_apart,
    heads_together,
    normed,
    zeroed,
)
from specdec.kernels.numba_skinny_linear import store_panel
from specdec.kernels.panel_formats import PANEL


def attention_inputs(
    x: Tensor, layer: AttentionInputs, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `specdec.kernels.decoder_block`."""
    num_threads()
    batch, nodes, _ = x.shape
    weights, height = input_weights(layer), tile(batch * nodes)
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
    """See `specdec.kernels.decoder_block`."""
    num_threads()
    batch, nodes, hidden = x.shape
    height = tile(batch * nodes)
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
    x, n, nodes, norm, eps, wq, wk, wv, biases, head_norms, head_eps, cos, sin, shape, tile, calls
):
    """Queries, keys and values `[B, heads, nodes, dim]` (flat) of `x[n, hidden]`, n = B * nodes.

    norm[hidden], biases (q, k, v: padded to panels, or empty), head_norms (q, k: `[dim]` or empty)
    with head_eps, cos, sin `[n, rotary]`; shape (hidden, heads, kv_heads, dim).
    """
    hidden, heads, kv_heads, dim = shape
    height = len(tile)
    rows = (n + height - 1) // height * height
    h = normed(x, n, rows, norm, eps, hidden)
    h_q, sums_q = prepared(wq, h, rows, hidden, tile)
    h_k, sums_k = prepared_again(wk, h, rows, hidden, tile, wq, (h_q, sums_q))
    h_v, sums_v = prepared_again(wv, h, rows, hidden, tile, wk, (h_k, sums_k))
    q_size, kv_size = heads * dim, kv_heads * dim
    q = np.empty(n * q_size, np.float32)
    k = np.empty(n * kv_size, np.float32)
    v = np.empty(n * kv_size, np.float32)
    q_panels, kv_panels = (q_size + PANEL - 1) // PANEL, (kv_size + PANEL - 1) // PANEL
    for p in prange(q_panels + 2 * kv_panels):
        if p < q_panels:
            for row in range(0, n, height):
                given = wq, p, h_q, sums_q, row, hidden, tile
                acc = biased(far_call(panel_product, calls[0], given), biases[0], p)
                store_panel(acc, q, row, n, p, q_size)
        elif p < q_panels + kv_panels:
            at = p - q_panels
            for row in range(0, n, height):
                given = wk, at, h_k, sums_k, row, hidden, tile
                acc = biased(far_call(panel_product, calls[1], given), biases[1], at)
                store_panel(acc, k, row, n, at, kv_size)
        else:
            at = p - q_panels - kv_panels
            for row in range(0, n, height):
                given = wv, at, h_v, sums_v, row, hidden, tile
                acc = biased(far_call(panel_product, calls[2], given), biases[2], at)
                store_panel(acc, v, row, n, at, kv_size)
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
    tile,
    calls,
):
    """The layer's output `[n, hidden]` from its input x and attention `o[B, heads, nodes, dim]`.

    All flat. post_norm, mlp_post_norm `[hidden]` or empty; epsilons of the three norms; biases
    (gate, up, down: padded to panels, or empty); shape (hidden, heads, dim, intermediate).
    """
    hidden, heads, dim, wide = shape
    height = len(tile)
    rows = (n + height - 1) // height * height
    a = heads_together(o, n, rows, nodes, heads, dim)
    a_o, sums_o = prepared(wo, a, rows, heads * dim, tile)
    y = np.empty(n * hidden, np.float32)
    panels = (hidden + PANEL - 1) // PANEL
    for p in prange(panels):
        for row in range(0, n, height):
            given = wo, p, a_o, sums_o, row, heads * dim, tile
            acc = biased(far_call(panel_product, calls[0], given), o_bias, p)
            store_panel(acc, y, row, n, p, hidden)

    add_residual(y, x, n, hidden, post_norm, epsilons[0])
    h = normed(y, n, rows, mlp_norm, epsilons[1], hidden)
    h_g, sums_g = prepared(wg, h, rows, hidden, tile)
    h_u, sums_u = prepared_again(wu, h, rows, hidden, tile, wg, (h_g, sums_g))
    m = zeroed(rows * wide)
    for p in prange((wide + PANEL - 1) // PANEL):
        for row in range(0, n, height):
            given = wg, p, h_g, sums_g, row, hidden, tile
            gate = biased(far_call(panel_product, calls[1], given), biases[0], p)
            given_up = wu, p, h_u, sums_u, row, hidden, tile
            up = biased(far_call(panel_product, calls[2], given_up), biases[1], p)
            store_panel(simd.multiply(activated(gate, activation), up), m, row, n, p, wide)

    m_d, sums_d = prepared(wd, m, rows, wide, tile)
    out = np.empty(n * hidden, np.float32)
    for p in prange(panels):
        for row in range(0, n, height):
            given = wd, p, m_d, sums_d, row, wide, tile
            acc = biased(far_call(panel_product, calls[3], given), biases[2], p)
            store_panel(acc, out, row, n, p, hidden)
    add_residual(out, y, n, hidden, mlp_post_norm, epsilons[2])
    return out
