"""Architecture "phi3": Phi-3, 3.5 and 4, whose projections are stored joined."""

from __future__ import annotations

from transformers import Phi3Config

from specdec.loading.gguf.blueprint import Blueprint
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.decoder import NORMS, decoder_sources, dense, partial_rope, rms, sizes

_LAYER = {
    "self_attn.qkv_proj.weight": "attn_qkv.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def phi3(c: Contents) -> Blueprint:
    fields = {**sizes(c, partial=True), **rms(c), **dense(c)}
    fields |= partial_rope(c, fields, tables=True)
    rope = fields["rope_parameters"]
    if rope["rope_type"] in ("linear", "yarn"):
        raise c.refusal("rope.scaling.type", "transformers knows none but longrope for it")
    # llama.cpp leaves the window out; the model was made with it.
    fields["sliding_window"] = c.integer("attention.sliding_window", 0) or None
    config = Phi3Config(
        **fields,
        original_max_position_embeddings=rope.get(
            "original_max_position_embeddings", fields["max_position_embeddings"]
        ),
    )
    return Blueprint(config, decoder_sources(c, {**_LAYER, **NORMS}, fields["num_hidden_layers"]))
