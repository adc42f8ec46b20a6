"""SamplingParams: how the target's law is shaped and when a text ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from specdec.errors import InvalidArgument, unknown_name
from specdec.plain import make_plain
from specdec.sampling import generation_fields
from specdec.sampling.foreign_names import CALL, refuse
from specdec.sampling.param_kinds import check_kinds

T = TypeVar("T")

# Spellings of vLLM, OpenAI and llama.cpp for Hugging Face's names.
SYNONYMS = {"max_tokens": "max_new_tokens", "stop": "stop_strings",
            "n": "num_return_sequences", "repeat_penalty": "repetition_penalty",
            "typical": "typical_p"}  # fmt: skip

DEFAULT_NEW_TOKENS = 128
MOST_SEQUENCES = 1 << 16  # of one prompt
_FLOAT32 = torch.finfo(torch.float32).max  # an infinite penalty times no occurrence is no number
_LENGTHS = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))


def spelled_out(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under Hugging Face's names. Raises InvalidArgument for two spellings of one, and
    for a name that is none."""
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in given.items():
        ours = SYNONYMS.get(name, name)
        if ours not in NAMES and name in CALL:
            refuse(CALL, name, value)
            continue
        if ours not in NAMES:
            raise unknown_name("sampling parameter", name, NAMES | SYNONYMS.keys())
        if value is None and ours != "num_return_sequences":  # off; and that is a number
            values.setdefault(ours, None)
        if value is None:
            continue
        if ours in spelled:
            raise InvalidArgument(f"{spelled[ours]} and {name} mean the same: give one of them")
        spelled[ours], values[ours] = name, value
    return values


def _takes_synonyms(cls: type[T]) -> type[T]:
    """A dataclass whose constructor understands every spelling."""
    made: Any = cls
    plain = made.__init__

    @wraps(plain)
    def init(self: T, *args: Any, **given: Any) -> None:
        plain(self, *args, **spelled_out(given))

    made.__init__ = init
    return cls


@_takes_synonyms
@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings under Hugging Face's names; a value that is None is off.

    Sampling is on if `do_sample` is true, or if it is not given and `temperature` is above 0;
    otherwise decoding is greedy. Unlike Hugging Face's, our `top_k` is off unless it is given.

    max_new_tokens: never passed, whatever a round accepts; 128 where nothing is said.
    max_length, min_length: instead of max_new_tokens and min_new_tokens, with the prompt counted.
    max_time: seconds after which the text ends with the next token.
    eos_token_id: one id or several; None takes the model's own, an empty list means none.
    stop_token_ids: ids that end a text beside these. ignore_eos: end tokens do not end it, but
        stop_token_ids do.
    stop_strings: the text ends before the first of them; `token_ids` keep its tokens. They may
        hold special tokens, which `text` does not show.
    min_tokens: no end token, stop token or stop string before so many (vLLM); min_new_tokens, too,
        keeps end tokens away, but ends by stop_token_ids and stop_strings nevertheless (Hugging
        Face).
    repetition_penalty: over prompt and output (Hugging Face); frequency_penalty and
        presence_penalty: over the output only (OpenAI, vLLM).
    logit_bias: token id -> added to its logit.
    logits_processor, stopping_criteria: Hugging Face objects or callables. A processor with state
        is copied where the tree branches: give it a `fork()` method or make it deep-copyable.
    prefix_allowed_tokens_fn: of (row, ids of prompt and output), the ids that may come next; rows
        count all texts of the call. One that is a closure or an object may keep a state, so drafts
        do without it unless it has the attribute `stateless = True`.
    seed: None draws one from PyTorch's generator, which `Generation.seed` then reports.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    min_tokens: int | None = None
    max_length: int | None = None
    min_length: int | None = None
    max_time: float | None = None
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
    stop_token_ids: int | Sequence[int] | None = None
    ignore_eos: bool | None = None
    stop_strings: str | Sequence[str] | None = None
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None
    logits_processor: Sequence[Callable[..., Any]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    num_return_sequences: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        check_kinds(self)
        for name in ("max_new_tokens", "max_length", "num_return_sequences"):
            _check_whole(self, name, 1)
        for name in (
            "min_new_tokens", "min_tokens", "min_length", "top_k", "no_repeat_ngram_size", "seed"
        ):  # fmt: skip
            _check_whole(self, name, 0)
        for name in ("temperature", "max_time"):
            _check_number(self, name, 0.0, float("inf"))
        for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            _check_number(self, name, 0.0, 1.0)
        for name in ("frequency_penalty", "presence_penalty"):
            _check_number(self, name, -_FLOAT32, _FLOAT32)
        _check_number(self, "repetition_penalty", 0.0, float("inf"))
        if self.repetition_penalty == 0.0:
            raise InvalidArgument("repetition_penalty=0 divides by zero: give 1.0 for none")
        if 1.0 in (self.epsilon_cutoff, self.eta_cutoff):
            raise InvalidArgument("epsilon_cutoff=1 or eta_cutoff=1 keeps no token: give less")
        if self.top_p == 0.0 or self.typical_p == 0.0:
            raise InvalidArgument("top_p=0 or typical_p=0 keeps no token: use temperature=0")
        if self.do_sample not in (None, True, False):
            raise InvalidArgument(f"do_sample={self.do_sample!r} is neither True nor False")
        if self.ignore_eos not in (None, True, False):
            raise InvalidArgument(f"ignore_eos={self.ignore_eos!r} is neither True nor False")
        if self.ignore_eos and self.eos_token_id not in (None, [], ()):
            raise InvalidArgument(
                f"ignore_eos and eos_token_id={self.eos_token_id!r} contradict each other: "
                "leave one of them out"
            )
        if self.do_sample is False and self.temperature:
            raise InvalidArgument(
                f"do_sample=False and temperature={self.temperature} contradict each other: "
                "leave one of them out"
            )
        if self.do_sample and self.temperature == 0.0:
            raise InvalidArgument("do_sample=True and temperature=0 contradict each other")
        if self.seed is not None and self.seed >= 1 << 64:
            raise InvalidArgument(f"seed={self.seed} does not fit 64 bits")
        if self.num_return_sequences > MOST_SEQUENCES:
            raise InvalidArgument(
                f"num_return_sequences={self.num_return_sequences} is more than {MOST_SEQUENCES}"
            )
        if self.num_return_sequences > 1 and not self.samples:
            raise InvalidArgument(
                f"num_return_sequences={self.num_return_sequences} with greedy decoding would "
                "give the same text each time: set temperature or do_sample=True"
            )
        for least, most in (
            ("min_new_tokens", "max_new_tokens"), ("min_tokens", "max_new_tokens"),
            ("min_length", "max_length"),
        ):  # fmt: skip
            if (getattr(self, least) or 0) > (getattr(self, most) or float("inf")):
                raise InvalidArgument(f"{least} exceeds {most}")
        for new, whole in _LENGTHS:
            if getattr(self, new) is not None and getattr(self, whole) is not None:
                raise InvalidArgument(f"{new} and {whole} both bound the length: give one of them")
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

    def most_new_tokens(self, num_prompt_tokens: int) -> int:
        """The longest output behind a prompt of this length; below 1 if max_length leaves none."""
        if self.max_length is not None:
            return self.max_length - num_prompt_tokens
        return DEFAULT_NEW_TOKENS if self.max_new_tokens is None else self.max_new_tokens

    def least_new_tokens(self, num_prompt_tokens: int) -> int:
        """The shortest output behind a prompt of this length."""
        if self.min_length is not None:
            return max(0, self.min_length - num_prompt_tokens)
        return self.min_new_tokens or 0

    @classmethod
    def from_generation_config(cls, config: GenerationConfig, **given: Any) -> SamplingParams:
        """The settings of a transformers config, under those `given` by name.

        As in transformers, sampling without a `top_k` has the default 50. A setting that we cannot
        honour (beams, guidance, watermarks ...) raises.
        """
        generation_fields.check(config, NAMES)
        values = {}
        for name in (f.name for f in fields(cls)):
            value = getattr(config, name, None)
            if value is not None:
                values[name] = value
        if values.get("do_sample"):
            values.setdefault("top_k", 50)
        else:  # transformers ignores warpers without do_sample, and warns
            values.pop("temperature", None)
        given = spelled_out(given)
        named = {name for name, value in given.items() if value is not None}
        for new, whole in _LENGTHS:  # of a config that says both, transformers takes the first
            if named & {new, whole} or new in values:
                values.pop(whole, None)
            if whole in named:
                values.pop(new, None)
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
