"""SamplingParams: how the target's law is shaped and when a text ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import GenerationConfig

from specdec.errors import InvalidArgument

# Spellings of vLLM, OpenAI and llama.cpp for Hugging Face's names.
SYNONYMS = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "stop": "stop_strings",
            "n": "num_return_sequences", "repeat_penalty": "repetition_penalty",
            "typical": "typical_p", "stop_token_ids": "eos_token_id"}  # fmt: skip

# What a GenerationConfig may hold that changes the text and that we cannot do; with neutral values.
_IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1), "num_beam_groups": (None, 1), "penalty_alpha": (None, 0.0),
    "dola_layers": (None,), "constraints": (None,), "force_words_ids": (None,),
    "guidance_scale": (None, 1, 1.0), "watermarking_config": (None,),
    "token_healing": (None, False), "diversity_penalty": (None, 0.0),
    "forced_bos_token_id": (None,), "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,), "begin_suppress_tokens": (None,),
    "encoder_repetition_penalty": (None, 1.0), "encoder_no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0), "max_time": (None,), "top_h": (None,),
}  # fmt: skip


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings under Hugging Face's names; a value that is None is off.

    Sampling is on if `do_sample` is true, or if it is not given and `temperature` is above 0;
    otherwise decoding is greedy. Unlike Hugging Face's, our `top_k` is off unless it is given.

    max_new_tokens: never passed, whatever a round accepts.
    eos_token_id: one id or several; None takes the model's own, an empty list means none.
    stop_strings: the text ends before the first of them; `token_ids` keep its tokens.
    repetition_penalty: over prompt and output (Hugging Face); frequency_penalty and
        presence_penalty: over the output only (OpenAI, vLLM).
    logit_bias: token id -> added to its logit.
    logits_processor, stopping_criteria: Hugging Face objects or callables. A processor with state
        is copied where the tree branches: give it a `fork()` method or make it deep-copyable.
    seed: None draws one from PyTorch's generator, which `Generation.seed` then reports.
    """

    max_new_tokens: int = 128
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    sequence_bias: Any = None
    logit_bias: Mapping[int, float] | None = None
    eos_token_id: int | Sequence[int] | None = None
    stop_strings: str | Sequence[str] | None = None
    logits_processor: Sequence[Callable[..., Any]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    num_return_sequences: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_whole(self, "max_new_tokens", 1)
        _check_whole(self, "num_return_sequences", 1)
        for name in ("min_new_tokens", "top_k", "no_repeat_ngram_size", "seed"):
            _check_whole(self, name, 0)
        for name in ("temperature", "epsilon_cutoff", "eta_cutoff"):
            _check_number(self, name, 0.0, float("inf"))
        for name in ("top_p", "min_p", "typical_p"):
            _check_number(self, name, 0.0, 1.0)
        for name in ("frequency_penalty", "presence_penalty"):
            _check_number(self, name, -float("inf"), float("inf"))
        _check_number(self, "repetition_penalty", 0.0, float("inf"))
        if self.repetition_penalty == 0.0:
            raise InvalidArgument("repetition_penalty=0 divides by zero: give 1.0 for none")
        if self.top_p == 0.0 or self.typical_p == 0.0:
            raise InvalidArgument("top_p=0 or typical_p=0 keeps no token: use temperature=0")
        if self.do_sample is False and self.temperature:
            raise InvalidArgument(
                f"do_sample=False and temperature={self.temperature} contradict each other: "
                "leave one of them out"
            )
        if self.do_sample and self.temperature == 0.0:
            raise InvalidArgument("do_sample=True and temperature=0 contradict each other")
        if self.seed is not None and self.seed >= 1 << 64:
            raise InvalidArgument(f"seed={self.seed} does not fit 64 bits")
        if self.num_return_sequences > 1 and not self.samples:
            raise InvalidArgument(
                f"num_return_sequences={self.num_return_sequences} with greedy decoding would "
                "give the same text each time: set temperature or do_sample=True"
            )
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidArgument("min_new_tokens exceeds max_new_tokens")
        if any(not s for s in self.stop_list):
            raise InvalidArgument("stop_strings holds an empty string")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, not taken by argmax."""
        return bool(self.temperature) if self.do_sample is None else self.do_sample

    @property
    def stop_list(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop_strings is None:
            return []
        return [self.stop_strings] if isinstance(self.stop_strings, str) else [*self.stop_strings]

    @classmethod
    def from_generation_config(cls, config: GenerationConfig, **given: Any) -> SamplingParams:
        """The settings of a transformers config, under those `given` by name.

        As in transformers, sampling without a `top_k` has the default 50. A setting that we cannot
        honour (beams, guidance, watermarks ...) raises.
        """
        for name, neutral in _IMPOSSIBLE.items():
            if getattr(config, name, None) not in neutral:
                raise InvalidArgument(
                    f"generation_config.{name}={getattr(config, name)!r} is not supported "
                    "under speculative decoding: unset it"
                )
        values = {}
        for name in (f.name for f in fields(cls)):
            value = getattr(config, name, None)
            if value is not None:
                values[name] = value
        if values.get("do_sample"):
            values.setdefault("top_k", 50)
        else:  # transformers ignores warpers without do_sample, and warns
            values.pop("temperature", None)
        if given.get("do_sample") is False or given.get("temperature") == 0.0:
            values.pop("temperature", None)
            values.pop("do_sample", None)
        return cls(**{**values, **given})


NAMES = frozenset(f.name for f in fields(SamplingParams))


def _check_whole(params: SamplingParams, name: str, least: int) -> None:
    value = getattr(params, name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{name}={value!r} is not a whole number of at least {least}")


def _check_number(params: SamplingParams, name: str, low: float, high: float) -> None:
    value = getattr(params, name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidArgument(f"{name}={value!r} is not a number from {low:g} to {high:g}")
