"""What a generation returns: Generation at the end, Step on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec.decoding.stats import Stats

_SHOWN = 60  # characters of a text in its `repr`


@dataclass(frozen=True, repr=False)
class Generation:
    """One generated text. `print` shows it, with a line of figures.

    text: decoded without special tokens; it ends before a stop string that was met.
    token_ids: every emitted token, an end token or stop string included.
    finish_reason: "stop" (end token, stop string, criterion), "length" or "cancelled".
    lossless: whether the text follows the target's own law.
    drafter, acceptance, view, seed: what ran; seed is None for greedy decoding.
    prompt_index, sample_index: which prompt of the call, and which of its return sequences.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    lossless: bool
    drafter: str
    acceptance: str
    view: str
    seed: int | None
    num_prompt_tokens: int
    prompt_index: int
    sample_index: int
    stats: Stats

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return (
            f"{self.text}\n[{len(self.token_ids)} tokens ({self.finish_reason}), drafter "
            f"{self.drafter}, {self.stats.tokens_per_s:.1f} tokens/s, "
            f"{self.stats.mean_acceptance_length:.2f} tokens a pass"
            f"{'' if self.lossless else ', not lossless'}{seed}]"
        )

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"Generation({text!r}, {len(self.token_ids)} tokens, {self.finish_reason!r})"

    def to_dict(self) -> dict[str, Any]:
        """All of it but the figures of single steps, ready for JSON."""
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "prompt_tokens": self.num_prompt_tokens,
            "finish_reason": self.finish_reason,
            "drafter": self.drafter,
            "acceptance": self.acceptance,
            "view": self.view,
            "lossless": self.lossless,
            "seed": self.seed,
            "prompt_index": self.prompt_index,
            "sample_index": self.sample_index,
            "stats": self.stats.to_dict(),
            "explanation": self.stats.explanation,
        }


@dataclass(frozen=True)
class Provisional:
    """What a drafter expects a row to begin with, before the target has read its prompt.

    Nothing of it is verified: `Step`s say what the text is, and may say something else.
    """

    row: int
    token_ids: list[int]
    text: str


@dataclass(frozen=True)
class Step:
    """The tokens that one round added to one row.

    sources[i] names the drafter that proposed token i, or is "target" where the target itself
    chose it (plain, recovered and bonus tokens). pieces[i] is the text that token i completed,
    which may be empty; together they are `text`.
    """

    row: int
    token_ids: list[int]
    sources: list[str]
    pieces: list[str]
    finish_reason: str | None

    @property
    def text(self) -> str:
        return "".join(self.pieces)
