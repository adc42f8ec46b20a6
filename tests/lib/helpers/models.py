"""Tiny random models of every supported architecture, and small helpers around them."""

from __future__ import annotations

import copy

import torch
import transformers as t
from transformers import PreTrainedModel

VOCAB = 40
_SMALL = dict(
    vocab_size=VOCAB, hidden_size=24, intermediate_size=32, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
    pad_token_id=None, head_dim=8,
)  # fmt: skip

# name -> (config, model class); windows are shorter than the prompts and than a tree is deep
ARCHITECTURES = {
    "llama": lambda: t.LlamaConfig(**_SMALL, num_hidden_layers=2),
    "llama-mha": lambda: t.LlamaConfig(**{**_SMALL, "num_key_value_heads": 4}, num_hidden_layers=2),
    "llama-3-groups": lambda: t.LlamaConfig(
        **{**_SMALL, "num_attention_heads": 6, "num_key_value_heads": 2}, num_hidden_layers=2
    ),
    "mistral": lambda: t.MistralConfig(**_SMALL, num_hidden_layers=2, sliding_window=5),
    "qwen2": lambda: t.Qwen2Config(
        **_SMALL, num_hidden_layers=2, use_sliding_window=True, sliding_window=4,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "qwen3": lambda: t.Qwen3Config(**_SMALL, num_hidden_layers=2),
    "gemma2": lambda: t.Gemma2Config(
        **_SMALL, num_hidden_layers=2, sliding_window=4, attn_logit_softcapping=0.5,
        final_logit_softcapping=3.0, query_pre_attn_scalar=8,
    ),
    "gemma3": lambda: t.Gemma3TextConfig(
        **_SMALL, num_hidden_layers=6, sliding_window=4, query_pre_attn_scalar=8,
    ),
    "phi3": lambda: t.Phi3Config(
        **{k: v for k, v in _SMALL.items() if k != "head_dim"}, num_hidden_layers=2,
        sliding_window=6,
    ),
    "gpt-oss": lambda: t.GptOssConfig(
        **_SMALL, num_hidden_layers=2, sliding_window=4, num_local_experts=4,
        num_experts_per_tok=2, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "mixtral": lambda: t.MixtralConfig(
        **_SMALL, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2,
        sliding_window=None,
    ),
    "qwen3-moe": lambda: t.Qwen3MoeConfig(
        **_SMALL, num_hidden_layers=2, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
}  # fmt: skip


def build(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    vocab_size: int = VOCAB,
    **changes: int,
) -> PreTrainedModel:
    """A random model whose logits differ enough between tokens to make choices clear.

    changes: fields of its config that are set to something else.
    """
    torch.manual_seed(seed)
    config = ARCHITECTURES[name]()
    config.update({"vocab_size": vocab_size, **changes})
    config._experts_implementation = "eager"  # the fused one does not take float64
    model = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "sinks" in parameter_name:
                parameter.normal_()
            elif parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return model.to(dtype).eval()


def disturbed(model: PreTrainedModel, noise: float) -> PreTrainedModel:
    """A copy with noise on its weights: a draft model that is right often and wrong often."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(noise * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    other.set_attn_implementation("eager")
    return other
