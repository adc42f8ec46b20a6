"""Architectures "llama" (Llama, Mistral, Mixtral, SmolLM2 ...), "granite" and "smollm3"."""

from __future__ import annotations

from typing import Any

from transformers import GraniteConfig, LlamaConfig, MixtralConfig, SmolLM3Config

from specdec.loading.gguf import experts
from specdec.loading.gguf.blueprint import Blueprint
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.decoder import (
    ATTENTION,
    MLP,
    NORMS,
    decoder_sources,
    dense,
    optional_biases,
    rms,
    rope,
    sizes,
    uninterleaved,
)


def llama(c: Contents) -> Blueprint:
    fields = {**sizes(c), **rms(c)}
    fields |= rope(c, fields, tables=True)
    c.expect("attention.sliding_window", 0)
    if c.key("expert_count"):
        return _mixtral(c, fields)
    return _llama(c, fields, LlamaConfig)


def granite(c: Contents) -> Blueprint:
    """Llama with four scales."""
    c.expect("rope.scaling.finetuned", True, why="positions are not rotated, which is unsupported")
    fields = {**sizes(c), **rms(c)}
    fields |= rope(c, fields, tables=True)
    fields |= {
        "logits_scaling": c.positive("logit_scale"),
        "residual_multiplier": c.real("residual_scale", 0.0) or 1.0,
        "embedding_multiplier": c.real("embedding_scale", 0.0) or 1.0,
        "attention_multiplier": c.real("attention.scale", 0.0) or fields["head_dim"] ** -0.5,
    }
    return _llama(c, fields, GraniteConfig)


def smollm3(c: Contents) -> Blueprint:
    """Llama of which every fourth layer does not rotate."""
    fields = {**sizes(c), **rms(c), "no_rope_layer_interval": 4}
    fields |= {**rope(c, fields), "use_sliding_window": False}
    return _llama(c, fields, SmolLM3Config)


def _llama(c: Contents, fields: dict[str, Any], kind: Any) -> Blueprint:
    fields |= dense(c)
    hidden, wide, head = (fields[name] for name in ("hidden_size", "intermediate_size", "head_dim"))
    queries, keys = (fields[f"num_{name}_heads"] * head for name in ("attention", "key_value"))
    attention = optional_biases(
        c,
        {
            "self_attn.q_proj.bias": ("attn_q.bias", queries),
            "self_attn.k_proj.bias": ("attn_k.bias", keys),
            "self_attn.v_proj.bias": ("attn_v.bias", keys),
            "self_attn.o_proj.bias": ("attn_output.bias", hidden),
        },
    )
    mlp = optional_biases(
        c,
        {
            "mlp.gate_proj.bias": ("ffn_gate.bias", wide),
            "mlp.up_proj.bias": ("ffn_up.bias", wide),
            "mlp.down_proj.bias": ("ffn_down.bias", hidden),
        },
    )
    config = kind(**fields, attention_bias=bool(attention), mlp_bias=bool(mlp))
    table = uninterleaved({**ATTENTION, **attention}, fields) | {**MLP, **mlp, **NORMS}
    return Blueprint(config, decoder_sources(c, table, fields["num_hidden_layers"]))


def _mixtral(c: Contents, fields: dict[str, Any]) -> Blueprint:
    count = c.count("expert_count")
    config = MixtralConfig(
        **fields,
        intermediate_size=c.integer("feed_forward_length"),
        num_local_experts=count,
        num_experts_per_tok=c.count("expert_used_count", most=count),
        sliding_window=None,
    )
    experts.expect_softmax(c)
    table = uninterleaved(ATTENTION, fields) | NORMS | experts.table(c, count)
    table["mlp.gate.weight"] = "ffn_gate_inp.weight"
    return Blueprint(config, decoder_sources(c, table, fields["num_hidden_layers"]))
