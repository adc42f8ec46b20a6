"""The weights of a decoder layer as the kernels of its halves take them, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from specdec.kernels.cpu.jit import inner
from specdec.kernels.linear.decoder_block import (
    ACTIVATIONS,
    AttentionInputs,
    LayerOutput,
    Linear,
    Norm,
)
from specdec.kernels.linear.gemm.entry_points import Calls, calls_of, gated_at
from specdec.kernels.linear.packed_formats import PANEL

NONE = np.empty(0, np.float32)
Made = TypeVar("Made")


def remembered(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
    """`make`, called once for each layer that lives."""
    known: WeakKeyDictionary[Any, Made] = WeakKeyDictionary()

    def ask(layer: Any) -> Made:
        if layer not in known:
            known[layer] = make(layer)
        return known[layer]

    return ask


@remembered
def input_weights(layer: AttentionInputs) -> tuple[Any, ...]:
    """The arguments of `make_inputs` that a layer never changes."""
    linears, norms = (layer.q, layer.k, layer.v), (layer.q_norm, layer.k_norm)
    dim = layer.head_dim
    shape = (
        layer.q.weight.inputs,
        layer.q.weight.outputs // dim,
        layer.k.weight.outputs // dim,
        dim,
    )
    return (
        _array(layer.norm),
        layer.norm.eps,
        *(linear.weight.panels for linear in linears),
        tuple(map(_bias, linears)),
        tuple(map(_array, norms)),
        tuple(0.0 if norm is None else norm.eps for norm in norms),
        shape,
    )


@remembered
def output_weights(layer: LayerOutput) -> tuple[Any, ...]:
    """The arguments of `make_output` that a layer never changes."""
    norms = (layer.post_norm, layer.mlp_norm, layer.mlp_post_norm)
    mlp = (layer.gate, layer.up, layer.down)
    return (
        layer.o.weight.panels,
        _bias(layer.o),
        *map(_array, norms),
        tuple(0.0 if norm is None else norm.eps for norm in norms),
        *(linear.weight.panels for linear in mlp),
        tuple(map(_bias, mlp)),
        ACTIVATIONS.index(layer.activation),
    )


def input_calls(layer: AttentionInputs, height: int) -> tuple[Calls, ...]:
    """What `make_inputs` calls for q, k and v, and tiles so high."""
    return tuple([calls_of(x.weight.panels, height) for x in (layer.q, layer.k, layer.v)])


def output_calls(layer: LayerOutput, height: int) -> tuple[Any, ...]:
    """What `make_output` calls for o, gate, up and down, and for gate and up together."""
    linears = layer.o, layer.gate, layer.up, layer.down
    calls = tuple([calls_of(x.weight.panels, height) for x in linears])
    return calls, gated_at(layer.gate.weight.panels, layer.up.weight.panels, height)


def layer_calls(block: tuple[AttentionInputs, LayerOutput], height: int) -> list[int]:
    """Both flat, for `input_calls_at` and `output_calls_at`."""
    products, gated = output_calls(block[1], height)
    each = (*input_calls(block[0], height), *products)
    return [*(at for calls in each for at in calls), gated]


@inner
def input_calls_at(c):
    """`input_calls` of a row of `layer_calls`."""
    return Calls(c[0], c[1], c[2]), Calls(c[3], c[4], c[5]), Calls(c[6], c[7], c[8])


@inner
def output_calls_at(c):
    """`output_calls` of a row of `layer_calls`."""
    o_call, gate_call = Calls(c[9], c[10], c[11]), Calls(c[12], c[13], c[14])
    up_call, down_call = Calls(c[15], c[16], c[17]), Calls(c[18], c[19], c[20])
    return (o_call, gate_call, up_call, down_call), c[21]


def linear_weights(linear: Linear) -> tuple[Any, ...]:
    """Panels, and a bias with zeros up to a whole panel, or empty."""
    return linear.weight.panels, _bias(linear)


def norm_weights(norm: Norm | None) -> tuple[Any, ...]:
    """Its weight, or none, and eps."""
    return _array(norm), 0.0 if norm is None else norm.eps


def _array(norm: Norm | None) -> NDArray[Any]:
    return NONE if norm is None else norm.weight.detach().float().contiguous().numpy()


def _bias(linear: Linear) -> NDArray[Any]:
    """A bias with zeros up to a whole panel, or an empty array."""
    if linear.bias is None:
        return NONE
    bias = linear.bias.detach().float().numpy()
    return np.concatenate([bias, np.zeros(-len(bias) % PANEL, np.float32)])
