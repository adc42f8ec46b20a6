"""What each field of transformers' GenerationConfig means to us: read, refused, or harmless.

A field that none of the tables knows, as of a later release, is refused where it is set.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from transformers import GenerationConfig

from specdec.errors import InvalidArgument
from specdec.sampling.foreign_names import CALL, is_neutral, refuse

# Read as what `Engine.generate` calls it; all of it concerns speed, so drafters without a use for
# a field pass it over.
DRAFTING = {
    "prompt_lookup_num_tokens": "num_draft_tokens",
    "num_assistant_tokens": "num_draft_tokens",
    "assistant_confidence_threshold": "min_draft_prob",
    "max_matching_ngram_size": "max_ngram",
}

# Set by whatever means, these change no text of ours.
HARMLESS = {
    "bos_token_id": "the prompt is given",
    "decoder_start_token_id": "of encoder-decoders",
    "pad_token_id": "an engine pads nothing; the adapter reads it",
    "early_stopping": "of beams",
    "length_penalty": "of beams",
    "low_memory": "of contrastive search",
    "renormalize_logits": "laws are normalised in any case",
    "use_cache": "specdec keeps keys and values in any case",
    "cache_config": "of the quantized cache",
    "max_cache_len": "of transformers' static cache",
    "prefill_chunk_size": "of transformers' prefill",
    "compile_config": "of transformers' forward",
    "disable_compile": "of transformers' forward",
    "continuous_batching_config": "of generate_batch",
    "num_assistant_tokens_schedule": "drafters adapt by themselves",
    "assistant_lookbehind": "of assistants with another tokenizer, which are refused",
    "target_lookbehind": "of assistants with another tokenizer, which are refused",
    "transformers_version": "who wrote the file",
}

# Where keys and values lie changes no text; in how many bits does.
_CACHES = (
    "dynamic", "dynamic_full", "static", "offloaded", "offloaded_static", "hybrid",
    "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked", "sliding_window",
)  # fmt: skip


def check(config: GenerationConfig, read: Container[str]) -> None:
    """Raise InvalidArgument, naming the field, for a setting that cannot be honoured.

    read: the fields that the caller takes up.
    """
    for name, value in _settings(config):
        if name in read or name in DRAFTING or name in HARMLESS:
            continue
        if name == "cache_implementation" and value in _CACHES:
            continue
        if name in CALL:
            refuse(CALL, name, value)
        else:
            raise InvalidArgument(
                f"generation_config.{name}={value!r} is not known to this version of specdec: "
                f"set it to None, or give what it does in logits_processor or stopping_criteria"
            )


def drafting(config: GenerationConfig) -> dict[str, Any]:
    """The settings of assisted decoding, under their own names."""
    return {name: value for name, value in _settings(config) if name in DRAFTING}


def _settings(config: GenerationConfig) -> Iterator[tuple[str, Any]]:
    """Fields that are set to something else than transformers' own defaults."""
    defaults = GenerationConfig._get_default_generation_params()
    for name, value in vars(config).items():
        if not name.startswith("_") and not is_neutral(value, (defaults.get(name),)):
            yield name, value
