"""draft_block on a CPU: one call for all of a step.

A draft token is little arithmetic, and entering a kernel from Python takes as long as most of its
matrices: so a step is entered once, and its kernels are called by their addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.level_attention_numba import (
    NO_SINKS,
    across,
    attention,
    fields_of,
    fits,
    part_at,
)
from specdec.kernels.cache.stage_kv_numba import stage_rows
from specdec.kernels.cpu.array_pointers import (
    CAPACITY,
    KEYS,
    ROWS,
    VALUES,
    floats_at,
    pointers_of_arrays,
    pointers_of_levels,
    rebind,
)
from specdec.kernels.cpu.function_pointers import address_of, call_pointer
from specdec.kernels.cpu.jit import SERIAL, inner, njit, num_threads, tile_height
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.linear.decoder_block import Linear
from specdec.kernels.linear.decoder_block_numba import make_inputs, make_output
from specdec.kernels.linear.decoder_run import Staging
from specdec.kernels.linear.decoder_run_numba import layer_kernels
from specdec.kernels.linear.draft_block import Attended, DraftBlock
from specdec.kernels.linear.draft_block import draft_block as op
from specdec.kernels.linear.gemm.entry_points import Calls, calls_of
from specdec.kernels.linear.layer_arguments_numba import (
    input_calls_at,
    input_weights,
    layer_calls,
    linear_weights,
    norm_weights,
    output_calls_at,
    output_weights,
    remembered,
)
from specdec.kernels.linear.row_ops_numba import (
    add_bias,
    add_residual,
    heads_apart,
    heads_together,
    in_rows,
    normed,
)
from specdec.kernels.linear.skinny_linear_numba import matrix_product

TOKEN, BEFORE, STATE, SELF_O, CROSS_Q, CROSS_TOKEN, HEAD = range(7)  # rows of `_products`
PREPARE, PRODUCT, SHARE, MATRIX, INPUTS, OUTPUTS = range(6)  # and its columns


class _Weights(NamedTuple):
    """What a block never changes."""

    linears: tuple[Any, ...]  # but for the state's; that of queries stands for none of the token
    state: Any  # of the first lag; `pointers` says where those of all lags are
    pointers: NDArray[np.int64]
    inputs: tuple[Any, ...]
    output: tuple[Any, ...]
    norms: tuple[Any, ...]  # of cross-attention, and of its queries
    kept: list[Any]  # states, alive as long as their addresses are used
    kernels: tuple[int, ...]
    calls: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]  # by the height of tiles


def draft_block(
    x: Tensor,
    before: Tensor,
    state: Tensor,
    block: DraftBlock,
    lags: Sequence[int],
    own: tuple[Tensor, Tensor],
    cross: tuple[Tensor, Tensor],
    near: Attended,
    far: Attended,
    staging: Staging,
) -> Tensor:
    """See `specdec.kernels.linear.draft_block`; head sizes that fill no vectors run in PyTorch."""
    if not fits(near.levels[0][0], near.levels[0][1]):
        return op.plain(x, before, state, block, lags, own, cross, near, far, staging)
    batch, nodes, _ = x.shape
    threads = num_threads()  # and start them: what is compiled below is linked with them
    weights, height = _weights(block), tile_height(batch * nodes)
    if height not in weights.calls:
        layer = block.inputs, block.output
        weights.calls[height] = _products(block, height), np.array(layer_calls(layer, height))
    shape = weights.inputs[-1]
    hidden, heads, _, dim = shape
    width = across(dim // LANES)
    settings = np.float32(dim**-0.5), np.float32(0), NO_SINKS, threads, width, part_at(width)
    scores = _step(
        _flat(x),
        _flat(before),
        _flat(state),
        np.array(lags, np.int64),
        (batch, nodes),
        weights.linears,
        block.cross_token is not None,
        weights.state,
        weights.pointers,
        weights.inputs[:-1],
        weights.output,
        weights.norms,
        (shape, (hidden, heads, dim, block.output.gate.weight.outputs)),
        height,
        *weights.calls[height],
        (*map(_flat, own), *map(_flat, cross)),
        (_levels(near), *fields_of(near.reads)),
        (_levels(far), *fields_of(far.reads)),
        (staging.length.numpy(), staging.rows.numpy(), staging.at),
        settings,
        weights.kernels,
    )
    return torch.from_numpy(scores.reshape(batch, nodes, -1))


def _flat(x: Tensor) -> NDArray[Any]:
    return x.contiguous().numpy().reshape(-1)


def _levels(what: Attended) -> NDArray[np.int64]:
    return pointers_of_levels(what.levels).reshape(-1, 4)


@remembered
def _weights(block: DraftBlock) -> _Weights:
    token = block.cross_q if block.cross_token is None else block.cross_token
    linears = block.token, block.before, block.self_o, block.cross_q, token, block.head
    states = [linear_weights(one) for one in block.states]
    return _Weights(
        tuple(map(linear_weights, linears)),
        states[0],
        pointers_of_arrays(states),
        input_weights(block.inputs),
        output_weights(block.output),
        (norm_weights(block.cross_norm), norm_weights(block.cross_q_norm)),
        states,
        layer_kernels((block.inputs, block.output)),
        {},
    )


def _products(block: DraftBlock, height: int) -> NDArray[np.int64]:
    """What the products of a step call, and their sizes; the state's is of single rows."""
    linears = (
        block.token, block.before, block.states[0], block.self_o, block.cross_q,
        block.cross_token or block.cross_q, block.head,
    )  # fmt: skip
    rows = [_product(x, 1 if i == STATE else height) for i, x in enumerate(linears)]
    return np.array(rows, np.int64)


def _product(linear: Linear, height: int) -> tuple[int, ...]:
    weight, some = linear.weight, np.empty(0, np.float32)
    calls = calls_of(weight.panels, height)
    given = some, weight.panels, some, 0, 0, 0, height, calls
    return *calls, address_of(matrix_product, *given), weight.inputs, weight.outputs


@inner
def _multiplied(x, n, linear, height, how):
    """`x[rows, inputs]` times a matrix plus its bias if any, `[n, outputs]`, flat; how: a row of
    `_products`."""
    y = np.empty(n * how[OUTPUTS], np.float32)
    calls = Calls(how[PREPARE], how[PRODUCT], how[SHARE])
    given = x, linear[0], y, n, how[INPUTS], how[OUTPUTS], height, calls
    call_pointer(matrix_product, how[MATRIX], given)
    add_bias(y, n, how[OUTPUTS], linear[1])
    return y


@inner
def _beginning(x, before, state, lags, nodes, linears, like, pointers, height, how, no_norm):
    """What h is before the attentions, `[n, hidden]`, flat; x, before: `[rows, hidden]`."""
    n, hidden, size = len(lags) * nodes, how[TOKEN, OUTPUTS], how[STATE, INPUTS]
    h = _multiplied(x, n, linears[0], height, how[TOKEN])
    add_residual(h, _multiplied(before, n, linears[1], height, how[BEFORE]), n, hidden, no_norm, 0)
    table = pointers.reshape(-1)
    for b in range(len(lags)):
        linear = rebind(like, table, lags[b] * pointers.shape[1])
        newest = _multiplied(state[b * size : (b + 1) * size], 1, linear, 1, how[STATE])
        for i in range(b * nodes, (b + 1) * nodes):
            add_residual(h[i * hidden : (i + 1) * hidden], newest, 1, hidden, no_norm, 0)
    return h


@njit(**SERIAL)
def _step(
    x, before, state, lags, sizes, linears, has_token, like, pointers, inputs, output, norms,
    shapes, height, products, calls, angles, near, far, staging, settings, kernels,
):  # fmt: skip
    """Scores `[n, outputs]`, flat, n = B * nodes.

    sizes: (B, nodes). linears, like, pointers, inputs, output, norms: of `_Weights`. shapes,
    height: of `make_inputs` and `make_output`. products: of `_products`; calls: of `layer_calls`.
    angles: cos and sin of both attentions. near, far: levels and fields of reads. staging: fields
    of `Staging`. settings: the last arguments of `attention`; kernels: of `layer_kernels`.
    """
    batch, nodes = sizes
    n = batch * nodes
    rows = (n + height - 1) // height * height
    hidden, heads, kv_heads, dim = shapes[0]
    shape = batch, heads, kv_heads, nodes, dim
    norm, eps = inputs[0], inputs[1]
    no_norm = norm[:0]

    given = (x, n, nodes) + inputs + (
        angles[0], angles[1], shapes[0], height, input_calls_at(calls)
    )  # fmt: skip
    q, k, v = call_pointer(make_inputs, kernels[0], given)
    last = near[0][-1]
    size, fresh = last[ROWS] * kv_heads * last[CAPACITY] * dim, (batch, kv_heads, nodes, dim)
    stage_rows(k, floats_at(last[KEYS], size), fresh, last[CAPACITY], staging)
    stage_rows(v, floats_at(last[VALUES], size), fresh, last[CAPACITY], staging)
    given_near = (q, near[0], shape) + near[1:] + settings
    o = call_pointer(attention, kernels[1], given_near)[0]

    x_rows, before_rows = in_rows(x, n, rows, hidden), in_rows(before, n, rows, hidden)
    h = _beginning(
        x_rows, before_rows, state, lags, nodes, linears, like, pointers, height, products, no_norm
    )
    together = heads_together(o, n, rows, nodes, heads, dim)
    added = _multiplied(together, n, linears[2], height, products[SELF_O])
    add_residual(h, added, n, hidden, no_norm, 0)

    first = normed(h, n, rows, norms[0][0], norms[0][1], hidden)
    asked = _multiplied(first, n, linears[3], height, products[CROSS_Q])
    if has_token:
        tokens = normed(x, n, rows, norm, eps, hidden)
        more = _multiplied(tokens, n, linears[4], height, products[CROSS_TOKEN])
        add_residual(asked, more, n, heads * dim, no_norm, 0)
    turned = heads_apart(
        asked, n, nodes, heads, dim, norms[1][0], norms[1][1], angles[2], angles[3]
    )
    given_far = (turned, far[0], shape) + far[1:] + settings
    seen = call_pointer(attention, kernels[1], given_far)[0]

    given_there = (h, seen, n, nodes) + output + (shapes[1], height, output_calls_at(calls))
    out = call_pointer(make_output, kernels[2], given_there)
    return _multiplied(in_rows(out, n, rows, hidden), n, linears[5], height, products[HEAD])
