"""Draft weights: a low-precision copy of a model's weights, for drafting only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModel
from specdec.kernels.linear.packed_weight import PanelWeight, quantise
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.model.fused_run import forwards
from specdec.model.packing import Packing
from specdec.model.text_part import decoder_of, layers_of, shallow, with_decoder

BITS = {"int8": 8, "int4": 4}


def low_precision(model: PreTrainedModel, packing: Packing | None, kind: str) -> PreTrainedModel:
    """`model` with its decoder layers and LM head in `kind`; norms and embedding are shared.

    The copy is made at the first call and kept as long as the model is packed and its layers are
    what they were; layers that have changed since are the model's own. Raises UnsupportedModel
    where the layers are not fused, since only those can be given other weights.
    """
    layers = layers_of(model)
    if packing is None or not layers or len(packing.fused) < len(layers):
        raise UnsupportedModel(
            f"draft_weights={kind!r} needs a float32 model on a CPU, numba, and decoder layers "
            "that we recognise: leave it out to draft with the model's own weights"
        )
    assert packing.watch is not None
    packing.watch.look()
    key = kind, packing.watch.alone
    if key not in packing.copies:
        packing.copies[key] = _copied(model, packing, BITS[kind])
    return packing.copies[key]


def _copied(model: PreTrainedModel, packing: Packing, bits: int) -> PreTrainedModel:
    decoder: Any = shallow(decoder_of(model))
    twins = [shallow(layer) for layer in decoder.layers]
    assert packing.watch is not None
    smaller = {}
    for index, (twin, layer) in enumerate(zip(twins, decoder.layers, strict=True)):
        if layer in packing.watch.alone:
            vars(twin).pop("forward", None)
        else:
            smaller[index] = twin, packing.fused[index].quantised(bits)
    for index, forward in forwards(smaller).items():
        twins[index].forward = forward
    decoder._modules["layers"] = nn.ModuleList(twins)
    copied = with_decoder(model, decoder)
    for name, module in model.named_children():
        if module in packing.linears:  # the LM head
            twin = shallow(module)
            weight = packing.linears[module].weight
            twin.forward = _linear(quantise(weight.dense(), bits), module)
            copied._modules[name] = twin
    return copied


def _linear(weight: PanelWeight, module: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: skinny_linear(x, weight, module.bias)
