"""Contestants: whoever generates text for a prompt, timed from outside in the same way."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.engine import Engine


class Stopwatch:
    """A transformers streamer that only looks at the clock.

    The first tokens come when the prompt has been read; what comes after them is decoding.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.counts: list[int] = []

    def put(self, value: Tensor) -> None:
        self.times.append(perf_counter())
        self.counts.append(value.numel())

    def end(self) -> None:
        """Part of the streamer protocol."""

    @property
    def tokens_per_s(self) -> float:
        """Rate of all tokens but those of the first delivery; entry 0 is the prompt."""
        span = self.times[-1] - self.times[1]
        return sum(self.counts[2:]) / span if span > 0 else 0.0


@dataclass(frozen=True)
class Run:
    """One text: its tokens, decoding rate, and acceptance length where there is one."""

    token_ids: list[int]
    tokens_per_s: float
    acceptance_length: float | None = None


class Contestant(Protocol):
    """Someone who takes part."""

    @property
    def name(self) -> str: ...

    def run(self, ids: list[int], max_new_tokens: int) -> Run:
        """Greedy text for a prompt, exactly `max_new_tokens` long."""


@dataclass
class Ours:
    """An engine with one drafter."""

    engine: Engine
    drafter: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "plain" if self.drafter == "none" else self.drafter

    def run(self, ids: list[int], max_new_tokens: int) -> Run:
        watch = Stopwatch()
        out = self.engine.generate(
            ids,
            drafter=self.drafter,
            max_new_tokens=max_new_tokens,
            eos_token_id=[],
            streamer=watch,
            **self.options,
        )
        assert not isinstance(out, list)
        return Run(out.token_ids, watch.tokens_per_s, out.stats.mean_acceptance_length)


@dataclass
class HuggingFace:
    """`model.generate` of transformers, with its own attention and its own prompt lookup."""

    model: PreTrainedModel
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, ids: list[int], max_new_tokens: int) -> Run:
        watch = Stopwatch()
        generate: Any = self.model.generate
        out = generate(
            torch.tensor([ids], device=self.model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=self.model.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens,
            streamer=watch,
            **self.options,
        )
        return Run(out[0, len(ids) :].tolist(), watch.tokens_per_s)
