"""What most decoders have in common: sizes of the configuration, tensors of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdec.loading.gguf.blueprint import Array, LayerTable, Source, layered, reordered, zeros
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.rope import rope_of

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"

ATTENTION = {
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
}
BIASES = {
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
}
MLP = {
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
NORMS = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
HEAD_NORMS = {
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
}


def sizes(c: Contents, partial: bool = False) -> dict[str, Any]:
    """Fields of a configuration: sizes, context and head. partial: RoPE may leave numbers out."""
    hidden, heads = c.count("embedding_length"), c.count("attention.head_count")
    kv_heads = c.count("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise c.refusal("attention.head_count_kv", f"{heads} heads cannot share so many")
    head = c.integer("attention.key_length", hidden // heads)
    c.expect("attention.value_length", head, why=f"values must be as long as keys, {head}")
    if not partial:
        c.expect("rope.dimension_count", head, why=f"heads of {head} must be rotated whole")
    c.expect("attention.causal", True)
    vocab = c.rows(EMBEDDINGS)
    c.expect("vocab_size", vocab, why=f"{EMBEDDINGS} has {vocab} rows")
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": c.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": c.count("context_length"),
        "tie_word_embeddings": not c.has(HEAD),
        # What the file's tokenizer says comes later; the classes' defaults mean other models.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def dense(c: Contents) -> dict[str, Any]:
    """The width of a feed-forward block without experts."""
    c.expect("expert_count", 0)
    c.expect("expert_used_count", 0)
    return {"intermediate_size": c.integer("feed_forward_length")}


def rms(c: Contents) -> dict[str, Any]:
    return {"rms_norm_eps": c.real("attention.layer_norm_rms_epsilon")}


def rope(c: Contents, fields: dict[str, Any], tables: bool = False) -> dict[str, Any]:
    """`rope_parameters` of heads that are rotated whole."""
    return {
        "rope_parameters": rope_of(c, fields["head_dim"], fields["max_position_embeddings"], tables)
    }


def partial_rope(c: Contents, fields: dict[str, Any], tables: bool = False) -> dict[str, Any]:
    """`rope_parameters` of heads of which the first numbers are rotated."""
    head = fields["head_dim"]
    dim = c.integer("rope.dimension_count", head)
    if not 0 < dim <= head or dim % 2 or int(head * (dim / head)) != dim:
        raise c.refusal("rope.dimension_count", f"that is no even part of a head of {head}")
    parameters = rope_of(c, dim, fields["max_position_embeddings"], tables)
    return {"rope_parameters": {**parameters, "partial_rotary_factor": dim / head}}


def decoder_sources(
    c: Contents, table: LayerTable, layers: int, norm: LayerTable | None = None
) -> dict[str, Source]:
    """All parameters of a decoder named as Llama's; norm: of the last norm, by its parameters."""
    sources = {"model.embed_tokens.weight": Source((EMBEDDINGS,))}
    sources |= layered(table, layers)
    last = norm or {"weight": "output_norm.weight"}
    for name, entry in last.items():
        sources[f"model.norm.{name}"] = Source((entry,)) if isinstance(entry, str) else entry("")
    if c.has(HEAD):
        sources["lm_head.weight"] = Source((HEAD,))
    return sources


def optional_biases(c: Contents, shapes: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """Entries for biases that a file has all, some or none of; empty for none.

    shapes: by parameter name, the tensor and its length. One that no layer has is zero where its
    neighbours have one, since transformers has them all or none. A layer that lacks what the first
    has is an error later on.
    """
    if not any(c.has(f"blk.0.{tensor}") for tensor, _ in shapes.values()):
        return {}
    return {
        name: tensor if c.has(f"blk.0.{tensor}") else zeros(length)
        for name, (tensor, length) in shapes.items()
    }


def interleaved_rows(heads: int, head: int) -> Array:
    """Where a file of architecture "llama" has the rows of queries or keys.

    There RoPE turns rows that lie side by side, in transformers rows that are half a head apart.
    """
    pairs = np.arange(heads * head).reshape(heads, head // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


def uninterleaved(table: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A table whose queries and keys, biases too, are read in transformers' order of rows."""
    head = fields["head_dim"]
    counts = {"q_proj": fields["num_attention_heads"], "k_proj": fields["num_key_value_heads"]}
    result = dict(table)
    for name, entry in table.items():
        projection = name.split(".")[-2]
        if projection in counts and isinstance(entry, str):
            result[name] = reordered(entry, interleaved_rows(counts[projection], head))
    return result
