"""Tiny models of every architecture read from GGUF, written as files by llama.cpp's own rules.

Names of tensors come from gguf-py's table; reorderings and changes of values are those of
llama.cpp's converter, written here once more, so that nothing is taken from the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
import transformers as t

VOCAB, CONTEXT = 64, 256
_SMALL: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
    bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
)  # fmt: skip
_THETA = {"rope_type": "default", "rope_theta": 5000.0}
_FREQS = [1.0, 1.5, 2.0, 8.0]
_LONG, _SHORT = [1.0, 2.0, 3.0, 9.0], [1.0, 1.1, 1.5, 2.0]
Keys = Callable[[gguf.GGUFWriter], object]


class Case(NamedTuple):
    """A configuration by hand, and what its file says beside the sizes.

    tensors: that are no parameters. close: how near llama.cpp comes, None where it is another
    model there; it rounds GELU to 16 bits.
    """

    architecture: str
    config: t.PreTrainedConfig
    keys: tuple[tuple[str, Any], ...] = ()
    tensors: Mapping[str, list[float]] = {}
    close: float | None = 1e-3


def _config(kind: Any, **changes: Any) -> Any:
    return kind(**{**_SMALL, "rope_parameters": dict(_THETA), **changes})


def _longrope(short: list[float], long: list[float], boundary: int, factor: float = 1.0) -> Any:
    return {"rope_type": "longrope", "rope_theta": 5000.0, "short_factor": short,
            "long_factor": long, "attention_factor": factor,
            "original_max_position_embeddings": boundary}  # fmt: skip


def _moe(**more: Any) -> dict[str, Any]:
    return {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, **more}


_GEMMA = {"head_dim": 16, "tie_word_embeddings": True}
_EXPERTS = (("expert_count", 4), ("expert_used_count", 2))

CASES: dict[str, Callable[[], Case]] = {
    "llama": lambda: Case("llama", _config(t.LlamaConfig)),
    "llama-tied-long-heads": lambda: Case(
        "llama", _config(t.LlamaConfig, tie_word_embeddings=True, head_dim=16)
    ),
    "llama-biases": lambda: Case(
        "llama", _config(t.LlamaConfig, attention_bias=True, mlp_bias=True)
    ),
    "llama-linear": lambda: Case(
        "llama",
        _config(t.LlamaConfig, rope_parameters={**_THETA, "rope_type": "linear", "factor": 4.0}),
        (("rope.scaling.type", "linear"), ("rope.scaling.factor", 4.0)),
    ),
    "llama-scale-linear": lambda: Case(
        "llama",
        _config(t.LlamaConfig, rope_parameters={**_THETA, "rope_type": "linear", "factor": 2.0}),
        (("rope.scale_linear", 2.0),),
    ),
    "llama-unscaled": lambda: Case(
        "llama",
        _config(t.LlamaConfig),
        (("rope.scaling.type", "none"), ("rope.scaling.factor", 4.0)),
    ),
    "llama-yarn": lambda: Case(
        "llama",
        _config(
            t.LlamaConfig,
            rope_parameters={**_THETA, "rope_type": "yarn", "factor": 4.0,
                             "original_max_position_embeddings": 64},
        ),
        (("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0),
         ("rope.scaling.original_context_length", 64)),
    ),
    "llama-yarn-amplitude": lambda: Case(
        "llama",
        _config(
            t.LlamaConfig,
            rope_parameters={**_THETA, "rope_type": "yarn", "factor": 4.0,
                             "original_max_position_embeddings": 64,
                             "attention_factor": 0.8 * (1 + 0.1 * math.log(4.0))},
        ),
        (("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0),
         ("rope.scaling.attn_factor", 0.8), ("rope.scaling.original_context_length", 64)),
    ),
    "llama-3": lambda: Case(
        "llama",
        _config(t.LlamaConfig, rope_parameters=_longrope(_FREQS, _FREQS, CONTEXT)),
        tensors={"rope_freqs.weight": _FREQS},
    ),
    "llama-3-linear": lambda: Case(
        "llama",
        _config(
            t.LlamaConfig,
            rope_parameters=_longrope([2 * x for x in _FREQS], [2 * x for x in _FREQS], CONTEXT),
        ),
        (("rope.scaling.factor", 2.0),),
        tensors={"rope_freqs.weight": _FREQS},
    ),
    "llama-longrope": lambda: Case(
        "llama",
        _config(
            t.LlamaConfig, rope_parameters=_longrope(_SHORT, _LONG, 256, 1.2),
            max_position_embeddings=1024,
        ),
        (("rope.scaling.type", "longrope"), ("rope.scaling.attn_factor", 1.2),
         ("rope.scaling.original_context_length", 256)),
        tensors={"rope_factors_short.weight": _SHORT, "rope_factors_long.weight": _LONG},
    ),
    "mixtral": lambda: Case(
        "llama",
        _config(t.MixtralConfig, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
        _EXPERTS,
    ),
    "granite": lambda: Case(
        "granite",
        _config(
            t.GraniteConfig, logits_scaling=3.0, residual_multiplier=0.5, embedding_multiplier=2.0,
            attention_multiplier=0.2,
        ),
        (("logit_scale", 3.0), ("residual_scale", 0.5), ("embedding_scale", 2.0),
         ("attention.scale", 0.2)),
    ),
    "smollm3": lambda: Case(
        "smollm3",
        _config(t.SmolLM3Config, num_hidden_layers=4, no_rope_layer_interval=4),
    ),
    "qwen2": lambda: Case("qwen2", _config(t.Qwen2Config)),
    "qwen2-yarn": lambda: Case(
        "qwen2",
        _config(
            t.Qwen2Config,
            rope_parameters={**_THETA, "rope_type": "yarn", "factor": 2.0,
                             "original_max_position_embeddings": 128},
        ),
        (("rope.scaling.type", "yarn"), ("rope.scaling.factor", 2.0),
         ("rope.scaling.original_context_length", 128)),
    ),
    "qwen3": lambda: Case("qwen3", _config(t.Qwen3Config, head_dim=16)),
    "qwen3-tied": lambda: Case(
        "qwen3", _config(t.Qwen3Config, head_dim=16, tie_word_embeddings=True)
    ),
    "qwen2moe": lambda: Case(
        "qwen2moe",
        _config(t.Qwen2MoeConfig, **_moe(shared_expert_intermediate_size=40)),
        (*_EXPERTS, ("expert_feed_forward_length", 24),
         ("expert_shared_feed_forward_length", 40)),
    ),
    "qwen3moe": lambda: Case(
        "qwen3moe",
        _config(t.Qwen3MoeConfig, head_dim=16, norm_topk_prob=True, **_moe()),
        (*_EXPERTS, ("expert_feed_forward_length", 24)),
    ),
    "gemma": lambda: Case("gemma", _config(t.GemmaConfig, **_GEMMA), close=3e-2),
    "gemma2": lambda: Case(
        "gemma2",
        _config(
            t.Gemma2Config, **_GEMMA, sliding_window=8, attn_logit_softcapping=5.0,
            final_logit_softcapping=4.0, query_pre_attn_scalar=16, num_hidden_layers=3,
        ),
        (("attention.sliding_window", 8), ("attn_logit_softcapping", 5.0),
         ("final_logit_softcapping", 4.0)),
        close=3e-2,
    ),
    "gemma2-27b": lambda: Case(
        "gemma2",
        _config(
            t.Gemma2Config, **_GEMMA, sliding_window=4096, num_hidden_layers=46,
            query_pre_attn_scalar=8,
        ),
        (("attention.sliding_window", 4096),),
        close=3e-2,
    ),
    "gemma3": lambda: Case(
        "gemma3",
        _config(
            t.Gemma3TextConfig, **_GEMMA, sliding_window=8, query_pre_attn_scalar=16,
            num_hidden_layers=7,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        (("attention.sliding_window", 8), ("rope.scaling.type", "linear"),
         ("rope.scaling.factor", 8.0)),
        close=6e-2,
    ),
    "phi3": lambda: Case(
        "phi3", _config(t.Phi3Config, original_max_position_embeddings=CONTEXT)
    ),
    "phi3-window": lambda: Case(
        "phi3",
        _config(t.Phi3Config, original_max_position_embeddings=CONTEXT, sliding_window=8),
        (("attention.sliding_window", 8),),
        close=None,  # llama.cpp leaves the window out
    ),
    "phi3-longrope": lambda: Case(
        "phi3",
        _config(
            t.Phi3Config, num_key_value_heads=4, original_max_position_embeddings=256,
            max_position_embeddings=1024,
            rope_parameters={**_longrope(_SHORT[:3], _LONG[:3], 256, 1.3),
                             "partial_rotary_factor": 0.75},
        ),
        (("rope.dimension_count", 6), ("rope.scaling.attn_factor", 1.3),
         ("rope.scaling.original_context_length", 256)),
        tensors={"rope_factors_short.weight": _SHORT[:3], "rope_factors_long.weight": _LONG[:3]},
    ),
    "olmo2": lambda: Case("olmo2", _config(t.Olmo2Config)),
    "starcoder2": lambda: Case(
        "starcoder2", _config(t.Starcoder2Config, sliding_window=None), close=3e-2
    ),
    "phi2": lambda: Case(
        "phi2",
        _config(t.PhiConfig, rope_parameters={**_THETA, "partial_rotary_factor": 0.5}),
        (("rope.dimension_count", 4),),
        close=3e-2,
    ),
    "command-r": lambda: Case(
        "command-r",
        _config(t.CohereConfig, logit_scale=0.25, tie_word_embeddings=True),
        (("logit_scale", 0.25),),
    ),
    "gpt2": lambda: Case(
        "gpt2",
        t.GPT2Config(
            vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, n_inner=48,
            bos_token_id=None, eos_token_id=None,
        ),
        close=3e-2,
    ),
    "gpt-oss": lambda: Case(
        "gpt-oss",
        _config(
            t.GptOssConfig, head_dim=16, sliding_window=8, num_local_experts=4,
            num_experts_per_tok=2,
        ),
        (*_EXPERTS, ("expert_feed_forward_length", 48), ("attention.sliding_window", 8)),
    ),
    "gpt-oss-yarn": lambda: Case(
        "gpt-oss",
        _config(
            t.GptOssConfig, head_dim=16, sliding_window=8, num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters={**_THETA, "rope_type": "yarn", "factor": 4.0, "truncate": False,
                             "original_max_position_embeddings": 64},
        ),
        (*_EXPERTS, ("expert_feed_forward_length", 48), ("attention.sliding_window", 8),
         ("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0),
         ("rope.scaling.original_context_length", 64)),
        close=None,  # llama.cpp rounds the ends of YaRN's ramp, which this model does not
    ),
}  # fmt: skip


def model_of(config: t.PreTrainedConfig, seed: int = 0) -> t.PreTrainedModel:
    """A random model whose every parameter matters, norms and biases as well."""
    torch.manual_seed(seed)
    model = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and "weight" in name:
                plus_one = config.model_type.startswith("gemma")
                parameter.normal_(0.0 if plus_one else 1.0, 0.2)
            else:
                parameter.normal_(0.0, 0.25)
    return model.eval()


def tensors_of(model: t.PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """The tensors of the model's file, float32, by llama.cpp's names."""
    config = model.config
    (arch,) = (a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors: dict[str, np.ndarray] = {}
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        x = parameter.float().numpy()
        block = "blk." + name.split(".")[2] + "." if ".layers." in name else ""
        if ".experts." in name:
            tensors |= {block + key: value for key, value in _experts(name, x, architecture)}
            continue
        stem, dot, suffix = name.rpartition(".")
        if suffix == "sinks":
            tensors[f"{block}attn_sinks.weight"] = x
            continue
        if architecture in ("llama", "granite", "smollm3"):
            for projection, heads in (("q_proj", config.num_attention_heads),
                                      ("k_proj", config.num_key_value_heads)):  # fmt: skip
                if projection in name:
                    x = _interleaved(x, heads)
        if architecture.startswith("gemma") and "norm" in name:
            x = x + 1
        if architecture == "gpt2" and suffix == "weight" and x.ndim == 2 and ".h." in name:
            x = x.T
        mapped = names.get_name(stem)
        assert mapped is not None, name
        tensors[f"{mapped}.{suffix}"] = x.reshape(-1) if "shared_expert_gate" in name else x
    return tensors


def _interleaved(x: np.ndarray, heads: int) -> np.ndarray:
    halves = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:])
    return halves.swapaxes(1, 2).reshape(x.shape)


def _experts(name: str, x: np.ndarray, architecture: str) -> list[tuple[str, np.ndarray]]:
    suffix = "bias" if name.endswith("bias") else "weight"
    is_transposed = architecture == "gpt-oss" and suffix == "weight"
    if is_transposed:
        x = x.swapaxes(1, 2)
    if "down_proj" in name:
        return [(f"ffn_down_exps.{suffix}", x)]
    if architecture == "gpt-oss":
        return [(f"ffn_gate_exps.{suffix}", x[:, ::2]), (f"ffn_up_exps.{suffix}", x[:, 1::2])]
    half = x.shape[1] // 2
    return [("ffn_gate_exps.weight", x[:, :half]), ("ffn_up_exps.weight", x[:, half:])]


def keys_of(case: Case) -> dict[str, Any]:
    """The file's keys under its prefix."""
    config = case.config
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None)
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "intermediate_size", None) or config.n_inner,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", heads),
        "attention.key_length": head,
        "attention.value_length": head,
        "vocab_size": config.vocab_size,
    }
    if rope is not None:
        keys["rope.dimension_count"] = head
        keys["rope.freq_base"] = rope.get("full_attention", rope)["rope_theta"]
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if hasattr(config, name):
            kind = "rms_" if "rms" in name else ""
            keys[f"attention.layer_norm_{kind}epsilon"] = getattr(config, name)
    return {**keys, **dict(case.keys)}


def write(
    path: Path,
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: str = "F32",
    tokenizer: Keys | None = None,
    others: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """A file of these keys and tensors; matrices of whole blocks in type `kind`, or of `others` by
    a part of the tensor's name."""
    writer = gguf.GGUFWriter(str(path), architecture, **options)
    for name, value in keys.items():
        key = f"{architecture}.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, (int, np.integer)):
            writer.add_uint32(key, int(value))
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.add_tokenizer_model("none") if tokenizer is None else tokenizer(writer)
    for name, x in tensors.items():
        chosen = next((other for part, other in (others or {}).items() if part in name), kind)
        quantised = gguf.GGMLQuantizationType[chosen]
        per_block, _ = gguf.GGML_QUANT_SIZES[quantised]
        x = np.ascontiguousarray(x, np.float32)
        if chosen != "F32" and x.ndim > 1 and x.shape[-1] % per_block == 0:
            writer.add_tensor(name, gguf.quants.quantize(x, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_whole_blocks(name: str) -> Case:
    """A case, without lists of RoPE, in sizes of whole blocks and vectors: all can be quantised."""
    case = CASES[name]()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16,
             "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}  # fmt: skip
    for size, value in sizes.items():
        if getattr(case.config, size, None) is not None:
            setattr(case.config, size, value)
    wide = getattr(case.config, "moe_intermediate_size", 64)
    wides = {"expert_feed_forward_length": wide, "expert_shared_feed_forward_length": 32}
    keys = {key: wides.get(key, value) for key, value in case.keys}
    return case._replace(keys=tuple(keys.items()))


def write_case(path: Path, name: str | Case, **options: Any) -> t.PreTrainedModel:
    """Write the file of a case; the model that it is of."""
    case = CASES[name]() if isinstance(name, str) else name
    model = model_of(case.config)
    more = {key: np.array(x, np.float32) for key, x in case.tensors.items()}
    tensors = {**more, **tensors_of(model, case.architecture)}
    write(path, case.architecture, keys_of(case), tensors, **options)
    return model


def llama_cpp_logits(path: Path, ids: list[int]) -> np.ndarray:
    """llama.cpp's logits `[N, V]` of a text, with keys and values in float32; or it raises."""
    import ctypes

    import llama_cpp as lib

    _quiet(lib)
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ValueError(f"llama.cpp does not read {path.name}")
    try:
        options = lib.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = max(64, len(ids)), 1024, 1024
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = 0  # float32
        options.flash_attn_type = 0
        context = lib.llama_init_from_model(model, options)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
        assert lib.llama_decode(context, batch) == 0
        vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        logits = lib.llama_get_logits(context)
        flat = np.ctypeslib.as_array(
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (len(ids), vocab)
        ).copy()
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        return flat
    finally:
        lib.llama_model_free(model)


_LOG: list[Any] = []


def _quiet(lib: Any) -> None:
    if not _LOG:
        _LOG.append(lib.llama_log_callback(lambda level, text, data: None))
        lib.llama_log_set(_LOG[0], None)
