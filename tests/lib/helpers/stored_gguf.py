"""GGUF blocks of random bits, and tiny Llamas made of them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

HIDDEN, WIDE, VOCAB, HEADS, KV_HEADS = 256, 512, 96, 4, 2
FLOATS = ["F32", "F16", "BF16"]
# Bytes of a block that are float16 scales: random bits there would be NaN or huge.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
          "Q4_1": (0, 2), "Q5_1": (0, 2), "TQ2_0": (64,)}  # fmt: skip


def blocks(kind: str, rows: int, inputs: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of a type: any bits but for the scales, which are small numbers."""
    per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = rng.integers(0, 256, (rows, inputs // per_block, size), dtype=np.uint8)
    for at in SCALES.get(kind, (0,)):
        scale = rng.normal(size=(*data.shape[:2], 1), scale=1e-3).astype(np.float16)
        data[..., at : at + 2] = scale.view(np.uint8)
    return data.reshape(rows, -1)


def write_gguf(
    path: Path,
    kind: str,
    others: dict[str, str] | None = None,
    seed: int = 0,
    context: int = 128,
) -> None:
    """A llama of two layers in one type, `others` by the end of a tensor's name; tied unless
    one of these is "output.weight"."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {"token_embd.weight": (VOCAB, HIDDEN)}
    if "output.weight" in (others or {}):
        shapes["output.weight"] = (VOCAB, HIDDEN)
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.attn_k.weight": (kv, HIDDEN),
            f"blk.{i}.attn_v.weight": (kv, HIDDEN),
            f"blk.{i}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.ffn_gate.weight": (WIDE, HIDDEN),
            f"blk.{i}.ffn_up.weight": (WIDE, HIDDEN),
            f"blk.{i}.ffn_down.weight": (HIDDEN, WIDE),
        }
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for name, shape in shapes.items():
        chosen = next((k for end, k in (others or {}).items() if name.endswith(end)), kind)
        raw = gguf.GGMLQuantizationType[chosen]
        if chosen in FLOATS:
            values = rng.normal(size=shape, scale=0.1).astype(np.float32)
            writer.add_tensor(name, gguf.quants.quantize(values, raw), raw_dtype=raw)
        else:
            writer.add_tensor(name, blocks(chosen, *shape, rng), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
