"""Architectures "olmo2", "starcoder2", "phi2", "command-r" and "gpt2"."""

from __future__ import annotations

from typing import Any

from transformers import (
    CohereConfig,
    GPT2Config,
    Olmo2Config,
    PhiConfig,
    Starcoder2Config,
)

from specdec.loading.gguf.blueprint import Array, Blueprint, Source, changed, layered
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.decoder import (
    ATTENTION,
    BIASES,
    EMBEDDINGS,
    HEAD,
    HEAD_NORMS,
    MLP,
    NORMS,
    decoder_sources,
    dense,
    partial_rope,
    rms,
    rope,
    sizes,
)

_NORM_BIASES = {name.replace("weight", "bias"): x.replace("weight", "bias")
                for name, x in NORMS.items()}  # fmt: skip
_LAST = {"weight": "output_norm.weight", "bias": "output_norm.bias"}


def olmo2(c: Contents) -> Blueprint:
    """Norms behind attention and feed-forward, and over all heads of queries and keys."""
    fields = {**sizes(c), **rms(c), **dense(c)}
    fields |= rope(c, fields)
    c.expect("attention.sliding_window", 0)
    c.shape(HEAD)  # not tied
    table = {
        **ATTENTION,
        **HEAD_NORMS,
        **MLP,
        "post_attention_layernorm.weight": "post_attention_norm.weight",
        "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    }
    return Blueprint(Olmo2Config(**fields), decoder_sources(c, table, fields["num_hidden_layers"]))


def starcoder2(c: Contents) -> Blueprint:
    fields = {**sizes(c), **dense(c), "norm_epsilon": _eps(c), "sliding_window": None}
    fields |= rope(c, fields)
    c.expect("attention.sliding_window", 0)
    table = {
        **ATTENTION,
        **BIASES,
        **NORMS,
        **_NORM_BIASES,
        "self_attn.o_proj.bias": "attn_output.bias",
        "mlp.c_fc.weight": "ffn_up.weight",
        "mlp.c_fc.bias": "ffn_up.bias",
        "mlp.c_proj.weight": "ffn_down.weight",
        "mlp.c_proj.bias": "ffn_down.bias",
    }
    sources = decoder_sources(c, table, fields["num_hidden_layers"], _LAST)
    return Blueprint(Starcoder2Config(**fields, use_bias=True), sources)


def phi2(c: Contents) -> Blueprint:
    fields = {**sizes(c, partial=True), **dense(c), "layer_norm_eps": _eps(c)}
    fields |= {**partial_rope(c, fields), "qk_layernorm": False}
    c.shape(HEAD)  # not tied
    table = {
        **{name: x for name, x in ATTENTION.items() if "o_proj" not in name},
        **BIASES,
        "self_attn.dense.weight": "attn_output.weight",
        "self_attn.dense.bias": "attn_output.bias",
        "mlp.fc1.weight": "ffn_up.weight",
        "mlp.fc1.bias": "ffn_up.bias",
        "mlp.fc2.weight": "ffn_down.weight",
        "mlp.fc2.bias": "ffn_down.bias",
        "input_layernorm.weight": "attn_norm.weight",
        "input_layernorm.bias": "attn_norm.bias",
    }
    sources = decoder_sources(c, table, fields["num_hidden_layers"], _LAST)
    renamed = {
        name.replace("model.norm.", "model.final_layernorm."): source
        for name, source in sources.items()
    }
    renamed["lm_head.bias"] = Source(("output.bias",))
    return Blueprint(PhiConfig(**fields), renamed)


def command_r(c: Contents) -> Blueprint:
    fields = {**sizes(c), **dense(c), "layer_norm_eps": _eps(c)}
    fields |= {**rope(c, fields), "logit_scale": c.positive("logit_scale"), "use_qk_norm": False}
    table = {**ATTENTION, **MLP, "input_layernorm.weight": "attn_norm.weight"}
    return Blueprint(CohereConfig(**fields), decoder_sources(c, table, fields["num_hidden_layers"]))


def gpt2(c: Contents) -> Blueprint:
    """Matrices lie the other way round, and positions are learned."""
    fields = sizes(c)
    layers, heads = fields["num_hidden_layers"], fields["num_attention_heads"]
    c.expect("attention.head_count_kv", heads)
    c.expect("attention.key_length", fields["hidden_size"] // heads)
    config = GPT2Config(
        vocab_size=fields["vocab_size"],
        n_positions=fields["max_position_embeddings"],
        n_embd=fields["hidden_size"],
        n_layer=layers,
        n_head=heads,
        n_inner=c.integer("feed_forward_length"),
        layer_norm_epsilon=_eps(c),
        tie_word_embeddings=fields["tie_word_embeddings"],
        bos_token_id=None,
        eos_token_id=None,
    )
    stem = "transformer."
    table: dict[str, Any] = {}
    for name, tensor in {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "ln_2": "ffn_norm",
                         "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up",
                         "mlp.c_proj": "ffn_down"}.items():  # fmt: skip
        is_matrix = name.startswith(("attn", "mlp"))
        weight = f"{tensor}.weight"
        table[f"{name}.weight"] = changed(weight, _transposed) if is_matrix else weight
        table[f"{name}.bias"] = f"{tensor}.bias"
    sources = {
        f"{stem}wte.weight": Source((EMBEDDINGS,)),
        f"{stem}wpe.weight": Source(("position_embd.weight",)),
        **layered(table, layers, f"{stem}h"),
        f"{stem}ln_f.weight": Source((_LAST["weight"],)),
        f"{stem}ln_f.bias": Source((_LAST["bias"],)),
    }
    if c.has(HEAD):
        sources["lm_head.weight"] = Source((HEAD,))
    return Blueprint(config, sources)


def _eps(c: Contents) -> float:
    return c.real("attention.layer_norm_epsilon")


def _transposed(x: Array) -> Array:
    return x.T
