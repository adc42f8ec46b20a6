"""Which models can be driven: those whose whole state is a KV cache that can be rolled back."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModel
from specdec.placement import check_device

_LAYERS = {"full_attention", "sliding_attention"}

# Tested against transformers' own attention; others are compared with it once, at load.
_TESTED = {
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_oss", "mixtral",
    "qwen3_moe",
}  # fmt: skip


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
    """Whether the architecture has its own test against transformers' attention."""
    return model.config.get_text_config().model_type in _TESTED


def probe(model: PreTrainedModel) -> Tensor:
    """A few token ids `[1, n]` to compare two ways of attention on."""
    vocab_size = model.config.get_text_config().vocab_size
    return torch.arange(8).remainder(vocab_size)[None].to(model.device)


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
