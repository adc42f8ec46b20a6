"""A tiny Llama, as a model of transformers and as a GGUF file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HIDDEN, VOCAB = 64, 96


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config)


def write_gguf(path: Path, tokenizer: bool = False) -> dict[str, np.ndarray]:
    """A llama of two layers with Q8_0 and Q4_1 blocks; returns the dequantised tensors."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if tokenizer:
        letters = ["ab", *(chr(33 + i) for i in range(VOCAB - 4))]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["<unk>", "<s>", "</s>", *letters])
        writer.add_token_types([3, 3, 3, *[1] * len(letters)])
        writer.add_token_merges(["a b"])
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (HIDDEN,),
            f"blk.{i}.ffn_norm.weight": (HIDDEN,),
            f"blk.{i}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.attn_k.weight": (HIDDEN // 2, HIDDEN),
            f"blk.{i}.attn_v.weight": (HIDDEN // 2, HIDDEN),
            f"blk.{i}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.ffn_gate.weight": (96, HIDDEN),
            f"blk.{i}.ffn_up.weight": (96, HIDDEN),
            f"blk.{i}.ffn_down.weight": (HIDDEN, 96),
        }
    values = {}
    for name, shape in shapes.items():
        tensor = rng.normal(size=shape, scale=0.1).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if "embd" in name else gguf.GGMLQuantizationType.Q4_1
        if len(shape) == 1:
            writer.add_tensor(name, tensor)
            values[name] = tensor
            continue
        blocks = gguf.quants.quantize(tensor, kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
        values[name] = gguf.quants.dequantize(blocks, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
