"""decoder_run on a CPU: one call for all layers.

Entering a kernel from Python takes 20 to 40 us, as long as many of a layer's take; here a run of
layers is entered once, and its kernels are called by their addresses.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.level_attention import NO_BIASES, NO_STAGED, Reads
from specdec.kernels.attention.level_attention_numba import (
    NO_SINKS,
    across,
    attention,
    fields_of,
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
from specdec.kernels.cpu.registers import TILE_HEIGHTS
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.linear.decoder_block_numba import make_inputs, make_output
from specdec.kernels.linear.decoder_run import Block, PendingSelection, Run, Staging
from specdec.kernels.linear.layer_arguments_numba import (
    input_calls,
    input_calls_at,
    input_weights,
    layer_calls,
    output_calls,
    output_calls_at,
    output_weights,
    remembered,
)
from specdec.kernels.selection.index_logits_numba import flattened
from specdec.kernels.selection.select_pages_numba import choose_by_index

_NOTHING = np.empty(0, np.float32)


class _Layers(NamedTuple):
    """What a run never changes: the first layer's weights, and where those of all layers are."""

    inputs: tuple[Any, ...]
    output: tuple[Any, ...]
    pointers: NDArray[np.int64]
    num_input_arrays: int
    kept: list[tuple[Any, ...]]  # all weights, alive as long as their addresses are used
    kernels: tuple[int, ...]  # of `layer_kernels`
    calls: dict[int, NDArray[np.int64]]  # what those call, `_calls` by the height of tiles


def decoder_run(
    x: Tensor,
    run: Run,
    cos: Tensor,
    sin: Tensor,
    levels: Sequence[Sequence[tuple[Tensor, Tensor]]],
    staging: Staging,
    reads: Sequence[Reads],
    pending: Sequence[PendingSelection | None],
    *,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """See `specdec.kernels.linear.decoder_run`."""
    batch, nodes, hidden = x.shape
    rows = batch * nodes
    threads = num_threads()  # and start them: what is compiled below is linked with them
    layers, output = _layers(run), run.blocks[0][1]
    in_shape = layers.inputs[-1]
    _, heads, kv_heads, dim = in_shape
    if len(cos) != batch:
        cos, sin = (t.expand(batch, -1, -1).contiguous() for t in (cos, sin))
    first = reads[0]
    indices = [None if choice is None else flattened(choice.index) for choice in pending]
    height, width = tile_height(rows), across(dim // LANES)
    out_shape = hidden, heads, dim, output.gate.weight.outputs
    if height not in layers.calls:
        layers.calls[height] = _calls(run, height)
    settings = np.float32(scale), np.float32(softcap or 0.0), NO_SINKS, threads, width
    out = _run(
        x.numpy().reshape(-1),
        (batch, nodes),
        (layers.inputs[:-1], layers.output),
        layers.pointers,
        layers.num_input_arrays,
        cos.numpy().reshape(-1),
        sin.numpy().reshape(-1),
        (in_shape, out_shape),
        height,
        layers.calls[height],
        pointers_of_levels([pair for pairs in levels for pair in pairs]).reshape(
            len(levels), len(levels[0]), -1
        ),
        (staging.length.numpy(), staging.rows.numpy(), staging.at),
        *fields_of(first),
        pointers_of_arrays([read.pages for read in reads]).reshape(-1),
        _asked(pending, indices),
        (*settings, part_at(width)),
        (*layers.kernels, 0 if all(x is None for x in pending) else _chooser()),
    )
    return torch.from_numpy(out.reshape(x.shape))


def _asked(pending: Sequence[PendingSelection | None], each: Sequence[Any]) -> tuple[Any, ...]:
    """Of each layer where its index is, 0 for none, and how far from head to head; pages and width;
    how.

    each: the indices, `flattened`.
    """
    first = next((x for x in pending if x is not None), None)
    if first is None:
        return np.zeros((len(pending), 2), np.int64), (0, 0), (False, False, 0, False, 0, 0)
    _, pages, width = first.index.shape
    signed, votes, *rest = first.settings
    pointers = [(0, 0) if x is None else (x[0].ctypes.data, x[1]) for x in each]
    return np.array(pointers, np.int64), (pages, width), (signed, votes == "max", *rest)


@remembered
def _layers(run: Run) -> _Layers:
    inputs = [input_weights(block[0]) for block in run.blocks]
    outputs = [output_weights(block[1]) for block in run.blocks]
    here, there = (
        pointers_of_arrays(weights) for weights in ([one[:-1] for one in inputs], outputs)
    )
    pointers = np.ascontiguousarray(np.concatenate([here, there], axis=1))
    kernels = layer_kernels(run.blocks[0])
    return _Layers(inputs[0], outputs[0], pointers, here.shape[1], [*inputs, *outputs], kernels, {})


def _calls(run: Run, height: int) -> NDArray[np.int64]:
    """`int64[layers, calls]`: `layer_calls` of each layer."""
    return np.array([layer_calls(block, height) for block in run.blocks], np.int64)


def layer_kernels(block: Block) -> tuple[int, ...]:
    """Addresses of `make_inputs`, `attention` and `make_output` for such a layer."""
    inputs, output = block
    some, zero, none = _NOTHING, np.float32(0), np.empty(0, np.int64)
    *weights, shape = input_weights(inputs)
    height, width = TILE_HEIGHTS[0], across(inputs.head_dim // LANES)
    calls = input_calls(inputs, height), output_calls(output, height)
    levels, table = np.empty((0, 4), np.int64), np.empty((0, 8), np.int64)
    fields = table, none, NO_STAGED, table, np.empty((0, 0, 0), np.int64), 0, NO_BIASES
    given = some, some, 0, 0, *output_weights(output), (0,) * 4, height, calls[1]
    return (
        address_of(make_inputs, some, 0, 0, *weights, some, some, shape, height, calls[0]),
        address_of(attention, some, levels, (0,) * 5, *fields, zero, zero, some, 0, width, 0),
        address_of(make_output, *given),
    )


@functools.cache
def _chooser() -> int:
    """The address of `choose_by_index`, which is compiled when the first layer asks for it."""
    zero, how = np.float32(0), (False, False, 0, False, 0, 0)
    return address_of(
        choose_by_index, np.empty((0, 0, 0), np.float32), _NOTHING, 0, 0, zero, how,
        np.empty((0, 0), np.int64),
    )  # fmt: skip


@inner
def _as_chooser(q, index, stride, pages, scale, how, out):
    """Says how `choose_by_index` is called by its address; to name that would compile it."""


@njit(**SERIAL)
def _run(
    x, sizes, weights, pointers, split, cos, sin, shapes, height, calls, levels, staging, reads,
    members, anc, bounds, pages, page_size, biases, page_pointers, asked, settings, kernels,
):  # fmt: skip
    """The output of all layers, `[n, hidden]`, flat, for their input x.

    sizes: (B, nodes). weights: (inputs, output) of the first layer; pointers: where the arrays of
    all are, `split` of the inputs first. shapes, height: of `make_inputs` and `make_output`; calls:
    of `_calls`. levels: `[layers, levels, 4]`, see `pointers_of_levels`. staging: fields of
    `Staging`. pages: those of the first layer, those of all are at `page_pointers`; asked: of
    `_asked`. settings, kernels: the last arguments of `attention`, addresses
    (that of `choose_by_index` the last, 0 where no layer asks).
    """
    batch, nodes = sizes
    n = batch * nodes
    _, heads, kv_heads, dim = shapes[0]
    shape = batch, heads, kv_heads, nodes, dim
    table = pointers.reshape(-1)
    for i in range(len(pointers)):
        at = i * pointers.shape[1]
        inputs = rebind(weights[0], table, at)
        given = (x, n, nodes) + inputs + (cos, sin, shapes[0], height, input_calls_at(calls[i]))
        q, k, v = call_pointer(make_inputs, kernels[0], given)
        last = levels[i, -1]
        size, fresh = last[ROWS] * kv_heads * last[CAPACITY] * dim, (batch, kv_heads, nodes, dim)
        stage_rows(k, floats_at(last[KEYS], size), fresh, last[CAPACITY], staging)
        stage_rows(v, floats_at(last[VALUES], size), fresh, last[CAPACITY], staging)
        (pages_here,) = rebind((pages,), page_pointers, i)
        if asked[0][i, 0]:
            (count, width), stride = asked[1], asked[0][i, 1]
            index = floats_at(asked[0][i, 0], (kv_heads - 1) * stride + count * width)
            queries = q.reshape((kv_heads, heads // kv_heads * nodes, dim))
            chooser = (queries, index, stride, count, settings[0], asked[2], pages_here[0])
            call_pointer(_as_chooser, kernels[3], chooser)
        given_here = (
            q, levels[i], shape, reads, members, anc, bounds, pages_here, page_size, biases,
        ) + settings  # fmt: skip
        o = call_pointer(attention, kernels[1], given_here)[0]
        output = rebind(weights[1], table, at + split)
        given_there = (x, o, n, nodes) + output + (shapes[1], height, output_calls_at(calls[i]))
        x = call_pointer(make_output, kernels[2], given_there)
    return x
