"""Which models can be driven: those whose whole state is a KV cache that can be rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModel
from specdec.placement import check_device

_LONGEST = 600  # of windows that are tried out; longer ones would make loading slow
_LAYERS = {"full_attention", "sliding_attention"}

# Tested against transformers' own attention; others are compared with it once, at load.
_TESTED = {
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_oss", "mixtral",
    "qwen3_moe",
}  # fmt: skip
# Models for images whose text is tested, too, around a text model that is.
_AROUND = {
    "llava",
    "llava_next",
    "llava_onevision",
    "idefics3",
    "smolvlm",
    "internvl",
    "gemma3",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
}
_INSIDE = {"qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"}


def check(model: PreTrainedModel) -> None:
    """Raise UnsupportedModel, with the reason, for a model that cannot be driven losslessly.

    InvalidArgument for one on a device that is not supported.
    """
    config, name = model.config.get_text_config(), type(model).__name__
    if getattr(model, "hf_device_map", None) is None:  # spread weights may be on no device at all
        check_device(model.device)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder; only causal LMs are supported")
    other = sorted(set(getattr(config, "layer_types", None) or _LAYERS) - _LAYERS)
    if other or getattr(model, "_is_stateful", False):
        kinds = ", ".join(other) or "a recurrent state"
        raise UnsupportedModel(
            f"{name} has layers of kind {kinds}: their state cannot be rolled back when a draft "
            "is rejected, so this model cannot be decoded speculatively"
        )
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedModel(
            f"{name} uses multi-head latent attention, whose compressed cache is not supported yet"
        )
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        raise UnsupportedModel(f"{name} attends in both directions and is no causal LM")
    if not model._can_set_attn_implementation():
        raise UnsupportedModel(
            f"{name} does not use transformers' attention interface, through which we read the KV"
        )


def is_tested(model: PreTrainedModel) -> bool:
    """Whether the architecture has its own test against transformers' attention; of a model for
    images, its text part as well."""
    whole, text = model.config.model_type, model.config.get_text_config().model_type
    return text in _TESTED and whole in {*_TESTED, *_AROUND} or text in _INSIDE and whole in _AROUND


def probe(model: PreTrainedModel) -> Tensor:
    """Token ids `[1, n]` to compare two ways of attention on: a few, and more where the model has a
    window, since one that comes only with the mask shows behind its end."""
    config = model.config.get_text_config()
    windows = [
        size
        for name, size in config.to_dict().items()
        if ("window" in name or "chunk" in name) and type(size) is int and size < _LONGEST
    ]
    count = 8 + max(windows, default=0)
    return torch.arange(count).remainder(config.vocab_size)[None].to(model.device)


def check_windows(config: Any, told: Mapping[int, int | None], name: str) -> None:
    """Raise UnsupportedModel if a layer's window is too long for the probe, and attention was not
    told of it. told: the window that each layer has called attention with."""
    size, types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if not size or size < _LONGEST:
        return
    for layer, window in told.items():
        is_sliding = types is None or types[layer] == "sliding_attention"
        if is_sliding and window != size:
            raise UnsupportedModel(
                f"{name}: layer {layer} sees a window of {size} tokens, of which its attention is "
                "not told, so this architecture has a feature that we do not support"
            )


@torch.inference_mode()
def stock_logits(model: PreTrainedModel) -> Tensor:
    """Logits `[1, n, V]` of transformers' own forward over the probe, without a cache."""
    return model(input_ids=probe(model), use_cache=False).logits


def compare(ours: Tensor, stock: Tensor, name: str) -> None:
    """Raise UnsupportedModel if our attention gives other logits than transformers' does."""
    gap = (ours.double() - stock.double()).abs().max().item()
    scale = stock.double().abs().max().item()
    tolerance = (8e-2 if ours.dtype in (torch.bfloat16, torch.float16) else 1e-3) * max(scale, 1.0)
    if not gap <= tolerance:
        raise UnsupportedModel(
            f"{name}: our attention differs from transformers' by {gap:.2g} in the logits, so "
            "this architecture has a feature that we do not support"
        )
