"""Settings of a training run, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from specdec.errors import InvalidArgument


@dataclass(frozen=True)
class Settings:
    """What decides the weights that come out; two runs with the same settings give the same.

    steps: optimizer steps; warmup: the first of them, as a share, with a rising rate, which then
        falls along a cosine to a twentieth.
    batch_tokens, accumulate: tokens of one backward pass, and backward passes of one step.
    rate: learning rate of the matrices (Muon); norms and biases take `vector_rate` (AdamW).
    rows, length: texts of a lesson that the target continues, and their tokens; long: tokens of
        the texts that it only reads.
    first_lessons: lessons before the first step, from which the linear part is solved;
        steps_per_lesson: steps after which the target makes a new one; remember: how many of the
        newest lessons a step may draw its texts from.
    draft_vocab: tokens that can be drafted, the most frequent ones; 0 for all.
    mlp_size: width of the block's MLP; 0 for the target's. window: reach of self-attention.
    kv_layer: number of the target's layer whose keys and values the block reads, from 0; -1 for
        the last one with full attention.
    max_lag: the block learns to draft up to so many tokens past the target's KV.
    logits_weight, argmax_weight, hidden_weight: of cross-entropy on the target's distribution, of
        that on its argmax, and of smooth-L1 on its hidden states.
    start: a checkpoint to begin from, a folder or the name of one that ships; "" for a new block.
    learn: "all" of the block, or "cross" for its cross-attention alone.
    """

    steps: int = 1000
    warmup: float = 0.05
    batch_tokens: int = 3072
    accumulate: int = 1
    rate: float = 0.003
    vector_rate: float = 1e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    rows: int = 64
    length: int = 384
    long: int = 3072
    first_lessons: int = 2
    steps_per_lesson: int = 24
    remember: int = 40
    draft_vocab: int = 8192
    mlp_size: int = 0
    window: int = 512
    kv_layer: int = -1
    max_lag: int = 4
    logits_weight: float = 1.0
    argmax_weight: float = 0.0
    hidden_weight: float = 0.0
    seed: int = 0
    start: str = ""
    learn: str = "all"

    def __post_init__(self) -> None:
        for name in (
            "steps", "batch_tokens", "accumulate", "rows", "length", "long", "first_lessons",
            "steps_per_lesson",
            "remember", "window", "max_lag",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name}={getattr(self, name)} is too small: give 1 or more")
        if self.learn not in ("all", "cross"):
            raise InvalidArgument(f"learn={self.learn!r}: give all or cross")
        for name in (
            "draft_vocab", "mlp_size", "logits_weight", "argmax_weight", "hidden_weight",
            "weight_decay",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise InvalidArgument(f"{name}={getattr(self, name)} is negative")
        if self.length <= self.max_lag + 1:
            raise InvalidArgument(f"length={self.length} is too short for max_lag={self.max_lag}")
        if not 0 < self.rate < 1 or not 0 < self.vector_rate < 1:
            raise InvalidArgument(
                f"rate={self.rate} and vector_rate={self.vector_rate} must lie between 0 and 1"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pace:
    """What changes no step's weights: how often to look, and when to stop.

    examine_minutes: between examinations on held-out texts, each followed by a checkpoint.
    patience: examinations without a better acceptance length after which training stops.
    held_out: texts that are examined; keep_lessons: leave them all in the folder.
    stop_after: leave off after so many steps; the same command goes on from there.
    """

    examine_minutes: float = 5.0
    patience: int = 1_000
    held_out: int = 32
    keep_lessons: bool = False
    stop_after: int | None = None
