"""A small random draft model: it knows nothing, so nearly all it proposes must be rejected."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from specdec.engine import Engine

_LAYERS = 2
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "moe_intermediate_size": 64,
}


def random_draft(engine: Engine, seed: int = 0) -> PreTrainedModel:
    """A model of the target's kind and vocabulary with two small layers of random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    config: Any = copy.deepcopy(engine.model.config.get_text_config())
    config.num_hidden_layers = _LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:_LAYERS]
    for name, size in _SIZES.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, size)
    # The target's own attention is ours already; a new model starts from transformers' default.
    config._attn_implementation = None
    config.name_or_path = ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return model.to(device=engine.device, dtype=engine.dtype).eval()
