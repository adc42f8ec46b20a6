"""Contestants: whoever generates text for a prompt, timed from outside in the same way."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from specdec.decoding.stats import Stats
from specdec.engine import Engine
from specdec.errors import InvalidArgument
from specdec.model.stock import stock_text
from specdec.sampling.prompt import Prompt

Asked = list[int] | Prompt  # token ids, or a prompt with images


def length(asked: Asked) -> int:
    """Tokens of a prompt, those of images included."""
    return len(asked.ids if isinstance(asked, Prompt) else asked)


def text_alone(asked: Asked, name: str) -> list[int]:
    """The ids of a prompt without images. Raises InvalidArgument for one that has some."""
    if isinstance(asked, Prompt):
        raise InvalidArgument(f"{name} is given no images here: leave it out of --baselines")
    return asked


class Stopwatch:
    """A transformers streamer that only looks at the clock.

    The first tokens come when the prompt has been read; what comes after them is decoding.
    """

    def __init__(self) -> None:
        self.start = perf_counter()
        self.times: list[float] = []
        self.counts: list[int] = []

    def put(self, value: Tensor) -> None:
        """The prompt first, then tokens as they come."""
        if self.counts or value.dim() < 2:
            self.note(value.numel())
        else:
            self.counts.append(0)
            self.times.append(perf_counter())

    def note(self, tokens: int) -> None:
        """So many tokens came just now."""
        self.times.append(perf_counter())
        self.counts.append(tokens)

    def end(self) -> None:
        """Part of the streamer protocol."""

    def first(self) -> int:
        """The place of the first delivery of new tokens."""
        return next(i for i, count in enumerate(self.counts) if count)

    @property
    def first_s(self) -> float:
        """Seconds from the call to the first new token."""
        return self.times[self.first()] - self.start

    @property
    def tokens_per_s(self) -> float:
        """Rate of all tokens but those of the first delivery; 0 if there are no others."""
        first = self.first()
        span = self.times[-1] - self.times[first]
        return sum(self.counts[first + 1 :]) / span if span > 0 else 0.0


@dataclass(frozen=True)
class Run:
    """One text: its tokens, decoding rate, seconds to the first token, and our own stats."""

    token_ids: list[int]
    tokens_per_s: float
    first_s: float
    stats: Stats | None = None


class Contestant(Protocol):
    """Someone who takes part."""

    @property
    def name(self) -> str: ...

    def run(self, ids: Asked, max_new_tokens: int, temperature: float, seed: int) -> Run:
        """Text for a prompt, exactly `max_new_tokens` long; temperature 0 is greedy."""


class Stepper(Protocol):
    """Someone whose single passes can be timed."""

    @property
    def name(self) -> str: ...

    def read(self, ids: list[int]) -> None:
        """Begin anew with a prompt."""

    def step(self, token: int) -> None:
        """One pass over one more token, up to its logits."""


@dataclass
class Ours:
    """An engine with one drafter and its options."""

    engine: Engine
    name: str
    drafter: str
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, ids: Asked, max_new_tokens: int, temperature: float, seed: int) -> Run:
        # that every token counts is said of ids, which might be taken for padded ones
        masked = {"input_ids": ids, "attention_mask": [1] * length(ids)}
        watch = Stopwatch()
        out = self.engine.stream(
            ids if isinstance(ids, Prompt) else masked,
            drafter=self.drafter,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            eos_token_id=[],
            streamer=watch,
            **self.options,
        ).run()[0]
        return Run(out.token_ids, watch.tokens_per_s, watch.first_s, out.stats)


@dataclass
class HuggingFace:
    """`model.generate` of transformers, with its own attention and its own drafting.

    It decodes by our settings, not by those of the model's generation config, and does not end.
    """

    model: PreTrainedModel
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    cache: Cache | None = field(default=None, init=False)

    def read(self, ids: list[int]) -> None:
        """See `Stepper`."""
        self.cache = DynamicCache(config=self.model.config)
        self._forward(ids)

    def step(self, token: int) -> None:
        """See `Stepper`."""
        self._forward([token])

    def _forward(self, ids: list[int]) -> None:
        tokens = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def run(self, ids: Asked, max_new_tokens: int, temperature: float, seed: int) -> Run:
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            torch.manual_seed(seed)
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
        watch = Stopwatch()
        settings = {**sampling, **self.options, "max_new_tokens": max_new_tokens}
        tokens = stock_text(self.model, ids, (), streamer=watch, **settings)
        return Run(tokens, watch.tokens_per_s, watch.first_s)
