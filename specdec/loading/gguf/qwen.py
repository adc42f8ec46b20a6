"""Architectures "qwen2", "qwen3", "qwen2moe" and "qwen3moe"."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig

from specdec.loading.gguf import experts
from specdec.loading.gguf.blueprint import Array, Blueprint, changed
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.decoder import (
    ATTENTION,
    BIASES,
    HEAD_NORMS,
    MLP,
    NORMS,
    decoder_sources,
    dense,
    rms,
    rope,
    sizes,
)


def qwen2(c: Contents) -> Blueprint:
    fields = _fields(c) | dense(c)
    table = {**ATTENTION, **BIASES, **MLP, **NORMS}
    return Blueprint(Qwen2Config(**fields), decoder_sources(c, table, fields["num_hidden_layers"]))


def qwen3(c: Contents) -> Blueprint:
    fields = _fields(c) | dense(c)
    table = {**ATTENTION, **HEAD_NORMS, **MLP, **NORMS}
    return Blueprint(Qwen3Config(**fields), decoder_sources(c, table, fields["num_hidden_layers"]))


def qwen2moe(c: Contents) -> Blueprint:
    fields = _fields(c) | _experts(c, is_normed=False)
    shared = c.integer("expert_shared_feed_forward_length", fields["intermediate_size"])
    fields |= {"shared_expert_intermediate_size": shared}
    table = {**ATTENTION, **BIASES, **NORMS, **experts.table(c, fields["num_experts"])}
    table |= {
        "mlp.gate.weight": "ffn_gate_inp.weight",
        "mlp.shared_expert_gate.weight": changed("ffn_gate_inp_shexp.weight", _as_row),
        "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
        "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
        "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    }
    sources = decoder_sources(c, table, fields["num_hidden_layers"])
    c.shape("output.weight")  # not tied
    return Blueprint(Qwen2MoeConfig(**fields), sources)


def qwen3moe(c: Contents) -> Blueprint:
    fields = _fields(c) | _experts(c, is_normed=True)
    table = {**ATTENTION, **HEAD_NORMS, **NORMS, **experts.table(c, fields["num_experts"])}
    table["mlp.gate.weight"] = "ffn_gate_inp.weight"
    return Blueprint(
        Qwen3MoeConfig(**fields), decoder_sources(c, table, fields["num_hidden_layers"])
    )


def _fields(c: Contents) -> dict[str, Any]:
    fields = {**sizes(c), **rms(c), "use_sliding_window": False}
    c.expect("attention.sliding_window", 0)
    return {**fields, **rope(c, fields)}


def _experts(c: Contents, is_normed: bool) -> dict[str, Any]:
    experts.expect_softmax(c, is_normed)
    count = c.count("expert_count")
    used = c.count("expert_used_count", most=count)
    wide = c.integer("feed_forward_length", 0)
    return {
        "num_experts": count,
        "num_experts_per_tok": used,
        "norm_topk_prob": is_normed,
        "intermediate_size": wide,
        "moe_intermediate_size": c.integer("expert_feed_forward_length", wide // used),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _as_row(x: Array) -> Array:
    return x.reshape(1, -1)
