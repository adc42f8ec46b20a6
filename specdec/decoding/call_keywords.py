"""CallKeywords: the keywords of `Engine.generate`, for editors and type checkers.

What they mean, their defaults and checks stand elsewhere: in SamplingParams and in the methods. A
name that is new there needs its line here (`tests/decoding/test_call_keywords.py`), since a type
checker reads no table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter, Signature, signature
from os import PathLike
from typing import Any, TypedDict, TypeVar

from specdec.decoding import options
from specdec.sampling.params import SamplingParams

F = TypeVar("F", bound=Callable[..., Any])


class PromptKeywords(TypedDict, total=False):
    """What a tokenizer or processor returns, as in `generate(**tokenizer(text))`."""

    input_ids: Any
    attention_mask: Any
    token_type_ids: Any
    pixel_values: Any
    pixel_values_videos: Any
    pixel_attention_mask: Any
    image_sizes: Any
    image_sizes_videos: Any
    batch_num_images: Any
    image_grid_thw: Any
    video_grid_thw: Any
    second_per_grid_ts: Any
    mm_token_type_ids: Any


class SamplingKeywords(TypedDict, total=False):
    """The fields of SamplingParams, and their other spellings."""

    max_new_tokens: int | None
    min_new_tokens: int | None
    min_tokens: int | None
    max_length: int | None
    min_length: int | None
    max_time: float | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    suppress_tokens: Sequence[int] | None
    sequence_bias: Any
    logit_bias: Mapping[int, float] | None
    eos_token_id: int | Sequence[int] | None
    stop_token_ids: int | Sequence[int] | None
    ignore_eos: bool | None
    stop_strings: str | Sequence[str] | None
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None
    logits_processor: Sequence[Callable[..., Any]] | None
    stopping_criteria: Sequence[Callable[..., Any]] | None
    num_return_sequences: int | None
    seed: int | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    n: int | None
    repeat_penalty: float | None
    typical: float | None


class MethodKeywords(TypedDict, total=False):
    """The options of drafters and views, and their other spellings: see `specdec list NAME`."""

    num_draft_tokens: int | None
    draft_width: int | None
    draft_tree: str | Sequence[int] | None
    draft_nodes: int | None
    image_branch: str | None
    image_tokens: int | None
    draft_model: Any
    min_draft_prob: float | None
    min_ngram: int | None
    max_ngram: int | None
    draft_layers: int | None
    draft_weights: str | None
    budget: int | None
    sink: int | None
    recent: int | None
    refresh: str | int | None
    anchors: Sequence[int] | None
    dense: Sequence[int] | None
    channels: Any
    label_bits: int | None
    query_channels: int | None
    kv_bits: int | None
    kv_group: int | None
    calibration: Any
    looked_share: float | None
    by_output: bool | None
    window_task: str | None
    crush_share: float | None
    crush_anchor: str | None
    redundancy: float | None
    induction_heads: float | None
    echo_heads: float | None
    streaming_heads: float | None
    episodes: int | None
    episode_tokens: int | None
    rank: int | None
    outliers: float | None
    key_share: float | None
    value_share: float | None
    latent_share: float | None
    latent_bits: int | None
    group_layers: int | None
    interpolation: float | None
    retained: float | None
    exact_share: float | None
    salient_bits: int | None
    salient_share: float | None
    merge_cosine: float | None
    merged_share: float | None
    attention_weight: float | None
    prefilter: float | None
    estimated_share: float | None
    cluster_every: int | None
    turn: float | None
    features: int | None
    recomputed_share: float | None
    seen_share: float | None
    wide_share: float | None
    retrieved_share: float | None
    num_speculative_tokens: int | None
    num_assistant_tokens: int | None
    prompt_lookup_num_tokens: int | None
    max_draft_len: int | None
    assistant_model: Any
    assistant_confidence_threshold: float | None
    max_matching_ngram_size: int | None


class CallKeywords(PromptKeywords, SamplingKeywords, MethodKeywords, total=False):
    """All keywords of `Engine.generate` and `Engine.stream`."""

    drafter: str | Callable[..., Any] | Any
    acceptance: str
    view: str
    streamer: Any
    generation_config: Any
    saved_prompt: str | PathLike[str] | Any
    saved_documents: Sequence[str | PathLike[str]] | Any
    share_prefixes: bool | None


def shows_keywords(function: F) -> F:
    """Give a function that takes CallKeywords a signature that lists them, with their defaults.

    An option that has another default in other methods shows None, which leaves it to the method.
    """
    own = list(signature(function).parameters.values())[:-1]
    hints = CallKeywords.__annotations__
    listed = [
        Parameter(
            name, Parameter.KEYWORD_ONLY, default=_default(name), annotation=_written(hints[name])
        )
        for name in hints
    ]
    made = Signature([*own, *listed], return_annotation=signature(function).return_annotation)
    function.__signature__ = made  # type: ignore[attr-defined]
    return function


def _default(name: str) -> Any:
    if name in options.NAMES:
        return options.default_of(name)
    own = {"drafter": "auto", "acceptance": "coupled", "view": "full"}
    return {**own, **_SAMPLING}.get(name)


def _written(hint: Any) -> str:
    """A type as it is written above."""
    return str(getattr(hint, "__forward_arg__", hint))


_SAMPLING = {field.name: field.default for field in fields(SamplingParams)}
