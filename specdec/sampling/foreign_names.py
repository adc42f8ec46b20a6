"""Names that users bring from other libraries and that mean nothing here, each with a way out.

This is no list of what is refused: a name that is not understood is refused anyway. Here stands
what such a name asks for, so that nobody is told that they have misspelled something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from specdec.errors import InvalidArgument


class Foreign(NamedTuple):
    """What to do instead, and the values besides None that ask for nothing."""

    instead: str
    neutral: tuple[Any, ...] = ()


_BEAMS = "beams are no samples of the model's law; num_return_sequences gives several texts"
_SCORES = "drafts are verified without keeping scores; run the model over prompt + output for them"
_OUTPUT = "the result is a Generation with text, token_ids and stats"
_GRAMMAR = (
    "there is no grammar engine here; give logits_processor=[...] or prefix_allowed_tokens_fn, "
    "which shape every node of a draft tree"
)
_TOOLS = "put the tools into the prompt: tokenizer.apply_chat_template(messages, tools=...)"
_PROMPT = "give the prompt as text, token ids or chat messages, as the first argument"
_IMAGES = (
    "show images in chat messages, as in [{'role': 'user', 'content': [{'type': 'image', 'image': "
    "path}, {'type': 'text', 'text': question}]}], or give what the model's processor returns"
)
_CACHE = "specdec keeps keys and values in a store of its own; see kv_tier and saved_prompt"
_OWN_WAY = "choose a drafter and its options instead (`specdec list`)"
_PROCESSOR = "give transformers' own processor for it in logits_processor=[...]"
_LLAMA_CPP = "this sampler of llama.cpp does not exist here; write it as a logits processor"
_STREAM = "use engine.stream(prompt, ...), an iterator"
_OFF = (False,)

# Keywords of a call.
CALL: dict[str, Foreign] = {
    **dict.fromkeys(("image", "images", "video", "videos", "multi_modal_data"), Foreign(_IMAGES)),
    # transformers
    "num_beams": Foreign(_BEAMS, (1,)),
    "num_beam_groups": Foreign(_BEAMS, (1,)),
    "diversity_penalty": Foreign(_BEAMS, (0.0,)),
    "early_stopping": Foreign(_BEAMS, _OFF),
    "length_penalty": Foreign(_BEAMS, (1.0,)),
    "constraints": Foreign(_BEAMS),
    "force_words_ids": Foreign(_BEAMS),
    "penalty_alpha": Foreign("contrastive search is no sampling; set temperature", (0.0,)),
    "dola_layers": Foreign("logits are the last layer's; DoLa is not among the rules"),
    "guidance_scale": Foreign("guidance needs a second pass over another prompt", (1.0,)),
    "negative_prompt_ids": Foreign("guidance needs a second pass over another prompt"),
    "negative_prompt_attention_mask": Foreign("guidance needs a second pass over another prompt"),
    "watermarking_config": Foreign("watermarks are left to the adapter, or " + _PROCESSOR),
    "token_healing": Foreign("heal the prompt first, with model.heal_tokens", _OFF),
    "top_h": Foreign(_PROCESSOR),
    "forced_bos_token_id": Foreign(_PROCESSOR),
    "forced_eos_token_id": Foreign(_PROCESSOR),
    "exponential_decay_length_penalty": Foreign(_PROCESSOR),
    "begin_suppress_tokens": Foreign(_PROCESSOR),
    "encoder_repetition_penalty": Foreign(_PROCESSOR, (1.0,)),
    "encoder_no_repeat_ngram_size": Foreign(_PROCESSOR, (0,)),
    "remove_invalid_values": Foreign(_PROCESSOR, _OFF),
    "renormalize_logits": Foreign("laws are normalised in any case", (True, False)),
    "output_scores": Foreign(_SCORES, _OFF),
    "output_logits": Foreign(_SCORES, _OFF),
    "output_attentions": Foreign("attention weights are never made", _OFF),
    "output_hidden_states": Foreign("hidden states are not kept", _OFF),
    "return_dict_in_generate": Foreign(_OUTPUT, _OFF),
    "return_dict": Foreign(_OUTPUT),
    "use_cache": Foreign(_CACHE, (True, False)),
    "past_key_values": Foreign(_CACHE),
    "cache_implementation": Foreign(_CACHE),
    "cache_config": Foreign(_CACHE),
    "inputs": Foreign(_PROMPT),
    "inputs_embeds": Foreign("give a specdec.Prompt, whose spans hold embeddings in place of ids"),
    "position_ids": Foreign("positions count from 0 at the first token of each prompt"),
    "pad_token_id": Foreign("nothing is padded here: each result has its own length"),
    "bos_token_id": Foreign("put it in front of the prompt's ids, where it is missing"),
    "tokenizer": Foreign("the tokenizer is the engine's: Engine(model, tokenizer)"),
    "synced_gpus": Foreign("use tensor_parallel=True of Engine.from_pretrained", _OFF),
    "custom_generate": Foreign("specdec.hf.generate is for model.generate; this is its engine"),
    "assistant_tokenizer": Foreign("a draft model must share the target's token ids"),
    "assistant_early_exit": Foreign("use a view as drafter with draft_layers="),
    "assistant_ensemble_weight": Foreign("verification is lossless here"),
    "is_assistant": Foreign("give the assistant as draft_model= to its target", _OFF),
    "num_assistant_tokens_schedule": Foreign(_OWN_WAY),
    "speculation_type": Foreign(_OWN_WAY),
    "use_mtp": Foreign(_OWN_WAY, _OFF),
    # vLLM and OpenAI
    "best_of": Foreign("use num_return_sequences and choose among the texts", (1,)),
    "use_beam_search": Foreign(_BEAMS, _OFF),
    "logprobs": Foreign(_SCORES, _OFF),
    "top_logprobs": Foreign(_SCORES),
    "prompt_logprobs": Foreign(_SCORES),
    "guided_json": Foreign(_GRAMMAR),
    "guided_regex": Foreign(_GRAMMAR),
    "guided_choice": Foreign(_GRAMMAR),
    "guided_grammar": Foreign(_GRAMMAR),
    "guided_decoding": Foreign(_GRAMMAR),
    "structured_outputs": Foreign(_GRAMMAR),
    "response_format": Foreign(_GRAMMAR, ({"type": "text"},)),
    "json_schema": Foreign(_GRAMMAR),
    "tools": Foreign(_TOOLS),
    "tool_choice": Foreign(_TOOLS),
    "functions": Foreign(_TOOLS),
    "function_call": Foreign(_TOOLS),
    "messages": Foreign(_PROMPT),
    "prompts": Foreign(_PROMPT),
    "prompt_token_ids": Foreign(_PROMPT),
    "stream": Foreign(_STREAM, _OFF),
    "echo": Foreign("the prompt is not repeated; Generation.text is what is new", _OFF),
    "suffix": Foreign("text is only continued; put both ends into the prompt"),
    "bad_words": Foreign("give token ids, as bad_words_ids"),
    "allowed_token_ids": Foreign("use prefix_allowed_tokens_fn=lambda row, ids: [...]"),
    "include_stop_str_in_output": Foreign(
        "text ends before the stop string and token_ids hold it", _OFF
    ),
    "skip_special_tokens": Foreign("decode Generation.token_ids yourself to see them", (True,)),
    "spaces_between_special_tokens": Foreign("decode Generation.token_ids yourself", (True,)),
    "detokenize": Foreign("texts are always decoded where there is a tokenizer", (True,)),
    "truncate_prompt_tokens": Foreign("cut the prompt before the call"),
    "lora_request": Foreign("merge the adapter into the model before Engine(model)"),
    "use_tqdm": Foreign("there is no bar for a call; give a streamer", _OFF),
    "max_completion_tokens": Foreign("write max_new_tokens"),
    # llama.cpp
    "grammar": Foreign(_GRAMMAR),
    "n_predict": Foreign("write max_new_tokens"),
    "n_probs": Foreign(_SCORES, (0,)),
    "mirostat": Foreign(_LLAMA_CPP, (0,)),
    "mirostat_mode": Foreign(_LLAMA_CPP, (0,)),
    "mirostat_tau": Foreign(_LLAMA_CPP),
    "mirostat_eta": Foreign(_LLAMA_CPP),
    "tfs_z": Foreign(_LLAMA_CPP, (1.0,)),
    "repeat_last_n": Foreign("penalties see the whole text here"),
    "penalty_last_n": Foreign("penalties see the whole text here"),
    "dry_multiplier": Foreign(_LLAMA_CPP, (0.0,)),
    "xtc_probability": Foreign(_LLAMA_CPP, (0.0,)),
    "cache_prompt": Foreign("use Engine.save_prompt and saved_prompt="),
}

_QUANTISED = "give a quantised .gguf file, which a CPU reads as it is stored"
_HUB = "set it up with huggingface_hub: `hf auth login`, HF_HOME, HF_TOKEN, HF_HUB_CACHE"
_GROWS = "stores grow with each call's own length"

# Keywords of loading.
LOADING: dict[str, Foreign] = {
    # transformers
    "load_in_4bit": Foreign(_QUANTISED, _OFF),
    "load_in_8bit": Foreign(_QUANTISED, _OFF),
    "quantization_config": Foreign(_QUANTISED),
    "attn_implementation": Foreign("attention is specdec's own", ("specdec",)),
    "use_safetensors": Foreign("weights come from safetensors or GGUF only", (True,)),
    "low_cpu_mem_usage": Foreign("weights are read tensor by tensor", (True,)),
    "token": Foreign(_HUB),
    "use_auth_token": Foreign(_HUB),
    "cache_dir": Foreign(_HUB),
    "force_download": Foreign(_HUB, _OFF),
    "proxies": Foreign(_HUB),
    "subfolder": Foreign("give the folder itself, or download it first", ("",)),
    "variant": Foreign("download the files of that variant and give their folder"),
    "gguf_file": Foreign("give the path of the .gguf file as the model"),
    "config": Foreign("load the model with transformers and give it to Engine(model, tokenizer)"),
    "state_dict": Foreign(
        "load the model with transformers and give it to Engine(model, tokenizer)"
    ),
    "tokenizer": Foreign("load both and write Engine(model, tokenizer)"),
    "pretrained_model_name_or_path": Foreign("write model=, or give it first"),
    "tp_plan": Foreign("write tensor_parallel=True"),
    "tensor_parallel_size": Foreign("write tensor_parallel=True and start with torchrun", (1,)),
    # vLLM
    "quantization": Foreign(_QUANTISED),
    "gpu_memory_utilization": Foreign("write max_memory={0: '22GiB'}"),
    "max_model_len": Foreign(_GROWS),
    "max_seq_len": Foreign(_GROWS),
    "max_num_seqs": Foreign("a call takes a list of prompts of any length"),
    "kv_cache_dtype": Foreign("view='kivi' reads keys and values in 2, 4 or 8 bits"),
    "swap_space": Foreign("write kv_tier='host' or 'disk'"),
    "cpu_offload_gb": Foreign("write device_map= and max_memory="),
    "enforce_eager": Foreign("write engine.target.graphs = None to run without CUDA graphs"),
    "enable_prefix_caching": Foreign("use Engine.save_prompt and saved_prompt=", _OFF),
    "speculative_config": Foreign("give drafter=, draft_model= and num_draft_tokens= to a call"),
    "speculative_model": Foreign("give draft_model= to a call"),
    "num_speculative_tokens": Foreign("give num_draft_tokens= to a call"),
    "draft_model": Foreign("give draft_model= to a call"),
    "drafter": Foreign("give drafter= to a call"),
    "seed": Foreign("give seed= to a call"),
    # llama.cpp
    "n_ctx": Foreign(_GROWS),
    "n_gpu_layers": Foreign("write device= or device_map="),
    "model_path": Foreign("write model=, or give it first"),
    "filename": Foreign("download the .gguf file and give its path as the model"),
}


def refuse(names: Mapping[str, Foreign], name: str, value: Any) -> None:
    """Raise InvalidArgument for a name of the table, unless its value asks for nothing."""
    if not is_neutral(value, names[name].neutral):
        raise InvalidArgument(f"{_shown(name, value)} is not supported: {names[name].instead}")


def is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value is None or among `neutral`; 1 is 1.0, and False is only False."""
    return value is None or any(
        isinstance(value, bool) == isinstance(other, bool)
        and isinstance(value, (bool, int, float, str, dict))
        and value == other
        for other in neutral
    )


def _shown(name: str, value: Any) -> str:
    """`name=value` where the value is short and plain."""
    plain = isinstance(value, (bool, int, float, str, list, tuple, dict))
    text = repr(value) if plain else ""
    return f"{name}={text}" if text and len(text) <= 40 else name
