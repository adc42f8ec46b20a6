"""quantised: the float weights of a checkpoint in groups of 4 or 8 bits, by the user's choice."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gguf
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.kernels.linear.packed_weight import PanelWeight, pack_groups, pack_stored
from specdec.loading.gguf.blocks import decode
from specdec.loading.pending import Packs
from specdec.model.foreseen import why_bits_vary

log = logging.getLogger("specdec")
WEIGHTS = ("auto", "q4", "q8")
# What GGUF calls the groups: 32 inputs share a float16 scale, and in 4 bits a minimum. The head and
# the embedding have 8 bits either way, since what they lose shows in every token.
_LAYERS = {"q4": "Q4_1", "q8": "Q8_0"}
_HEAD = "Q8_0"
_GROUP = 32
_CHUNK = 1 << 22  # numbers at a time: the steps between take memory


def check_weights(weights: str) -> None:
    """Raise InvalidArgument for what is no choice of bits."""
    if weights not in WEIGHTS:
        raise InvalidArgument(f"weights={weights!r} is unknown: give {', '.join(WEIGHTS)}")


def no_quantising(weights: str, why: str) -> InvalidArgument:
    """The error for weights that cannot be packed so."""
    return InvalidArgument(
        f"weights={weights!r} packs a safetensors checkpoint on a CPU, and {why}; or give "
        "weights='auto'"
    )


def story_of(weights: str) -> str:
    """What the user is told of such weights."""
    return f", weights packed to {weights[1]} bits (another model than the checkpoint)"


def packs_of(weights: str, activations: str) -> Callable[[PreTrainedModel], Packs]:
    """What makes panels of the weights of a checkpoint: in their own precision for "auto".

    The function takes the model on the meta device. activations: as for `load_gguf`.
    """

    def of(frame: PreTrainedModel) -> Packs:
        if weights == "auto":
            return lambda name, weight, is_head: weight.panels()
        rounds = activations != "float32"
        if activations == "auto" and (why := why_bits_vary(frame, lambda name: True)):
            log.info("float32 activations: %s", why)
            rounds = False
        return lambda name, x, is_head: quantised(name, x.dense(), weights, is_head, rounds)

    return of


def quantised(name: str, weight: Tensor, weights: str, is_head: bool, rounds: bool) -> PanelWeight:
    """A weight `float32[out, in]` rounded to groups, as GGUF's own quantiser does it.

    weights: "q4" or "q8"; is_head: of the LM head or embedding; rounds: as blocks that are
    multiplied with activations in 8 bits. Raises UnsupportedModel where groups do not fit, by name.
    """
    outputs, inputs = weight.shape
    if inputs % _GROUP:
        raise UnsupportedModel(
            f"weights={weights!r} packs groups of {_GROUP} inputs, and {name} has {inputs}: leave "
            "weights at 'auto'"
        )
    kind = _HEAD if is_head else _LAYERS[weights]
    step = max(1, _CHUNK // inputs)
    numbers = weight.numpy()
    data = np.concatenate([
        gguf.quants.quantize(numbers[at : at + step], gguf.GGMLQuantizationType[kind])
        for at in range(0, outputs, step)
    ])  # fmt: skip
    if rounds:
        return pack_stored(kind, data)
    codes = decode(kind, data)
    return pack_groups(codes.codes, codes.scale, codes.minimum, codes.bits)
