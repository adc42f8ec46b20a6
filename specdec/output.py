"""What a generation returns: Generation at the end, Step on the way."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.stats import Stats


@dataclass(frozen=True)
class Generation:
    """One generated text.

    text: decoded without special tokens; it ends before a stop string that was met.
    token_ids: every emitted token, an end token or stop string included.
    finish_reason: "stop" (end token, stop string, criterion) or "length".
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
