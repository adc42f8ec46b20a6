"""Architectures "gemma", "gemma2" and "gemma3", whose files hold the weights of norms plus one."""

from __future__ import annotations

from typing import Any

from transformers import Gemma2Config, Gemma3TextConfig, GemmaConfig

from specdec.loading.gguf.blueprint import Array, Blueprint, changed
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.decoder import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    NORMS,
    decoder_sources,
    dense,
    rms,
    rope,
    sizes,
)
from specdec.loading.gguf.rope import rope_of
from specdec.loading.gguf.windows import layer_types

_FOUR_NORMS = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}
# Layers of the models whose queries are scaled by width per head, as no key says: those of 27B.
_LARGE_2, _LARGE_3 = 46, 62


def gemma(c: Contents) -> Blueprint:
    fields = _fields(c)
    fields |= rope(c, fields)
    return _blueprint(c, GemmaConfig(**fields), NORMS)


def gemma2(c: Contents) -> Blueprint:
    fields = _fields(c)
    fields |= rope(c, fields)
    base = fields["rope_parameters"]["rope_theta"]
    c.expect("rope.freq_base_swa", base, why="all layers of this architecture share one base")
    c.expect("rope.dimension_count_swa", fields["head_dim"])
    fields |= {
        "sliding_window": c.count("attention.sliding_window", 4096),
        "layer_types": layer_types(c, fields["num_hidden_layers"], 2),
        "attn_logit_softcapping": c.positive("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": c.positive("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _scalar(fields, _LARGE_2),
    }
    return _blueprint(c, Gemma2Config(**fields), _FOUR_NORMS)


def gemma3(c: Contents) -> Blueprint:
    fields = _fields(c)
    head, layers = fields["head_dim"], fields["num_hidden_layers"]
    c.expect("rope.dimension_count_swa", head)
    c.expect("rope.scaling.attn_factor", 1.0, why="layers with a window are not scaled")
    c.expect("attn_logit_softcapping", 0.0)
    window = c.count("attention.sliding_window")
    fields |= {
        "sliding_window": window,
        "layer_types": layer_types(c, layers, 6),
        "query_pre_attn_scalar": _scalar(fields, _LARGE_3),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": c.real("final_logit_softcapping", 0.0) or None,
        "rope_parameters": {
            "full_attention": rope_of(c, head, fields["max_position_embeddings"]),
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": c.positive("rope.freq_base_swa", 10000.0),
            },
        },
    }
    return _blueprint(c, Gemma3TextConfig(**fields), {**_FOUR_NORMS, **HEAD_NORMS})


def _fields(c: Contents) -> dict[str, Any]:
    return {**sizes(c), **rms(c), **dense(c), "attention_bias": False}


def _scalar(fields: dict[str, Any], large: int) -> int:
    if fields["num_hidden_layers"] == large:
        return int(fields["hidden_size"]) // int(fields["num_attention_heads"])
    return int(fields["head_dim"])


def _blueprint(c: Contents, config: Any, norms: dict[str, str]) -> Blueprint:
    table: dict[str, Any] = {
        **ATTENTION,
        **MLP,
        **{name: changed(x, _minus_one) for name, x in norms.items()},
    }
    last = {"weight": changed("output_norm.weight", _minus_one)}
    return Blueprint(config, decoder_sources(c, table, config.num_hidden_layers, last))


def _minus_one(x: Array) -> Array:
    return x - 1
