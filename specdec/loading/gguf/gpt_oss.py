"""Architecture "gpt-oss"."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import GptOssConfig

from specdec.loading.gguf import experts
from specdec.loading.gguf.blueprint import Array, Blueprint, Source
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.decoder import ATTENTION, BIASES, HEAD, decoder_sources, rms, rope, sizes
from specdec.loading.gguf.windows import layer_types

_LAYER: dict[str, Any] = {
    **ATTENTION,
    **BIASES,
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.sinks": "attn_sinks.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
}


def gpt_oss(c: Contents) -> Blueprint:
    fields = {**sizes(c), **rms(c)}
    fields |= rope(c, fields)
    if fields["rope_parameters"]["rope_type"] == "yarn":
        fields["rope_parameters"]["truncate"] = False  # as the model was made; no key says it
    base = fields["rope_parameters"]["rope_theta"]
    c.expect("rope.freq_base_swa", base, why="all layers of this architecture share one base")
    c.expect("rope.dimension_count_swa", fields["head_dim"])
    experts.expect_softmax(c)
    c.key("feed_forward_length")  # that of experts counts
    c.shape(HEAD)  # not tied
    config = GptOssConfig(
        **fields,
        intermediate_size=c.integer("expert_feed_forward_length"),
        num_local_experts=(count := c.count("expert_count")),
        num_experts_per_tok=c.count("expert_used_count", most=count),
        sliding_window=c.count("attention.sliding_window"),
        layer_types=layer_types(c, fields["num_hidden_layers"], 2),
    )
    table = {
        **_LAYER,
        "mlp.experts.gate_up_proj": _gate_up,
        "mlp.experts.gate_up_proj_bias": _gate_up_bias,
        "mlp.experts.down_proj": _down,
    }
    return Blueprint(config, decoder_sources(c, table, fields["num_hidden_layers"]))


def _gate_up(block: str) -> Source:
    """`[experts, inputs, 2 x outputs]`, a gate's column beside its up's."""

    def make(gate: Array, up: Array) -> Array:
        pairs = np.stack([gate, up], axis=2)
        return pairs.reshape(len(gate), -1, gate.shape[-1]).swapaxes(1, 2)

    return Source((f"{block}ffn_gate_exps.weight", f"{block}ffn_up_exps.weight"), make=make)


def _gate_up_bias(block: str) -> Source:
    return Source(
        (f"{block}ffn_gate_exps.bias", f"{block}ffn_up_exps.bias"),
        make=lambda gate, up: np.stack([gate, up], axis=-1).reshape(len(gate), -1),
    )


def _down(block: str) -> Source:
    return Source((f"{block}ffn_down_exps.weight",), make=lambda x: x.swapaxes(1, 2))
