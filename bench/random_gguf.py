"""Random GGUFs of the shapes of known models, so that speed can be measured without their weights.

Random weights run at the speed of trained ones; what they say is noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specdec.cachedir import build_folder, cache_root, check_room
from specdec.errors import InvalidArgument, unknown_name

_FILE = "model.gguf"
_VERSION = 1


@dataclass(frozen=True)
class Shape:
    """A llama: sizes as its configuration names them."""

    layers: int
    hidden: int
    wide: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    is_tied: bool


SHAPES = {
    "llama-1b": Shape(16, 2048, 8192, 32, 8, 64, 128256, True),  # Llama 3.2 1B
    "llama-3b": Shape(28, 3072, 8192, 24, 8, 128, 128256, True),  # Llama 3.2 3B
    "llama-8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, False),  # Llama 3.1 8B
}
MIXES = {"q4_k_m": ("Q4_K", "Q6_K"), "q5_k_m": ("Q5_K", "Q6_K")}
PLAIN = {name.lower(): name for name in (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"
)}  # fmt: skip


def random_gguf(name: str) -> Path:
    """The file of a name such as "llama-1b:q4_k_m", in the cache folder, written if need be."""
    shape_name, _, kind = name.partition(":")
    if shape_name not in SHAPES:
        raise unknown_name("--random", shape_name, SHAPES)
    if kind not in MIXES and kind not in PLAIN:
        raise InvalidArgument(
            f"--random {name!r}: give a shape and a type, as in {shape_name}:q4_k_m; types are "
            f"{', '.join([*MIXES, *PLAIN])}"
        )
    folder = cache_root() / "gguf" / f"random-{shape_name}-{kind}-v{_VERSION}"
    return build_folder(folder, lambda out: _write(SHAPES[shape_name], kind, out / _FILE)) / _FILE


def _write(shape: Shape, mix: str, path: Path) -> None:
    import gguf

    chosen = _types(shape, mix)
    sizes = {name: gguf.GGMLQuantizationType[name] for name in set(chosen.values())}
    needed = sum(_bytes(gguf, sizes[chosen[name]], dims) for name, dims in _shapes(shape).items())
    check_room(path.parent, needed)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_context_length(131072)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.wide)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(shape.vocab)
    _add_tokenizer(writer, gguf, shape.vocab)
    norms = ["output_norm"] + [
        f"blk.{i}.{norm}" for i in range(shape.layers) for norm in ("attn_norm", "ffn_norm")
    ]
    ones = np.ones(shape.hidden, np.float32)
    for name in norms:
        writer.add_tensor_info(f"{name}.weight", ones.shape, ones.dtype, ones.nbytes)
    for name, dims in _shapes(shape).items():
        kind = sizes[chosen[name]]
        nbytes = _bytes(gguf, kind, dims)
        bytes_ = (dims[0], nbytes // dims[0])
        writer.add_tensor_info(name, bytes_, np.dtype(np.uint8), nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _ in norms:
        writer.write_tensor_data(ones)
    for name, dims in _shapes(shape).items():  # one after the other: all of them may not fit
        writer.write_tensor_data(_blocks(gguf, sizes[chosen[name]], dims, rng))
    writer.close()


def _add_tokenizer(writer: Any, gguf: Any, vocab: int) -> None:
    """Bytes and a blank before "t", since there must be a merge: the other ids are never met."""
    known = [*_byte_names(), "\u0120t"]
    tokens = known + [f"<{i}>" for i in range(len(known), vocab)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    unused = int(gguf.TokenType.UNUSED)
    writer.add_token_types([1] * len(known) + [unused] * (vocab - len(known)))
    writer.add_token_merges(["\u0120 t"])
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(vocab - 1)


def _byte_names() -> list[str]:
    """How a byte-level vocabulary spells the 256 bytes (GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    names = {byte: chr(byte) for byte in shown}
    names |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [names[byte] for byte in range(256)]


def _shapes(shape: Shape) -> dict[str, tuple[int, int]]:
    """Rows and inputs of all matrices."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = {"token_embd.weight": (shape.vocab, shape.hidden)}
    if not shape.is_tied:
        found["output.weight"] = (shape.vocab, shape.hidden)
    for i in range(shape.layers):
        found |= {
            f"blk.{i}.attn_q.weight": (queries, shape.hidden),
            f"blk.{i}.attn_k.weight": (keys, shape.hidden),
            f"blk.{i}.attn_v.weight": (keys, shape.hidden),
            f"blk.{i}.attn_output.weight": (shape.hidden, queries),
            f"blk.{i}.ffn_gate.weight": (shape.wide, shape.hidden),
            f"blk.{i}.ffn_up.weight": (shape.wide, shape.hidden),
            f"blk.{i}.ffn_down.weight": (shape.hidden, shape.wide),
        }
    return found


def _types(shape: Shape, kind: str) -> dict[str, str]:
    """The type of each matrix; mixes as llama.cpp's `llama-quantize` makes them: the finer one for
    the head, and for values and the last product of the MLP in some layers."""
    names = _shapes(shape)
    if kind in PLAIN:
        return dict.fromkeys(names, PLAIN[kind])
    coarse, fine = MIXES[kind]
    chosen = dict.fromkeys(names, coarse)
    chosen["token_embd.weight" if shape.is_tied else "output.weight"] = fine
    eighth = shape.layers // 8
    for i in range(shape.layers):
        if i < eighth or i >= 7 * shape.layers // 8 or (i - eighth) % 3 == 2:
            chosen[f"blk.{i}.attn_v.weight"] = chosen[f"blk.{i}.ffn_down.weight"] = fine
    return chosen


def _bytes(gguf: Any, kind: Any, dims: tuple[int, int]) -> int:
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(dims[0] * dims[1] // per_block * size)


def _blocks(gguf: Any, kind: Any, dims: tuple[int, int], rng: np.random.Generator) -> Any:
    """Random bits, with scales that keep outputs about as large as inputs."""
    from specdec.kernels.linear.stored.formats import FORMATS, KINDS

    form = FORMATS[KINDS[kind.name]]
    rows, count = dims[0], dims[1] // form.inputs
    raw = np.frombuffer(rng.bytes(rows * count * form.block.itemsize), np.uint8)
    blocks = raw.reshape(rows, count, -1).copy().view(form.block)[..., 0]
    spread = float(np.std(form.code_values[: 1 << form.bits])) * (32 if form.is_super else 1)
    scale = 1 / (spread * dims[1] ** 0.5)
    blocks["d"] = rng.uniform(0.5, 1.5, blocks.shape) * scale
    if "m" in (form.block.names or ()):
        middle = float(np.mean(form.code_values[: 1 << form.bits]))
        blocks["m"] = blocks["d"] * (middle if form.is_super else -middle)
    return blocks.view(np.uint8).reshape(rows, -1)
