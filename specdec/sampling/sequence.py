"""Row: one sequence of a batch while it is being generated."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

from specdec.sampling.prompt import Prompt
from specdec.sampling.sampler import Sampler


@dataclass
class Row:
    """What drafters, models and rules need to know of one sequence.

    index: tells it from all other rows of its stream, for good. slot: its place in KV stores for as
        long as it is decoded, and later another row's; `index` where no other was given.
    prompt_index: which prompt of the call it continues; rows of one prompt share its KV.
    tokens: prompt and output so far; the last one is the root of the next tree.
    num_prompt_tokens: how many of them are the prompt.
    max_tokens: `len(tokens)` will never exceed it.
    num_final: how many of them can never be taken back. All of them, but for the tokens that a
        drafter inside another drafter has only proposed.
    round: how many rounds this sequence has been through; keys the noise of a round.
    nesting: 0 in the engine, 1 inside a drafter's own verification, and so on.
    behind: tokens that it lacks to the longest row of a batch that is to be turned as one.
    content: what its prompt holds besides token ids; None if nothing.
    ends: tokens with which the text ends, so that nothing can follow them.
    unasked: in how many rounds it went without whose drafts, and why.
    """

    index: int
    prompt_index: int
    tokens: list[int]
    num_prompt_tokens: int
    max_tokens: int
    sampler: Sampler
    num_final: int
    round: int = 0
    nesting: int = 0
    behind: int = 0
    content: Prompt | None = None
    ends: frozenset[int] = frozenset()
    unasked: Counter[str] = field(default_factory=Counter)
    slot: int = -1

    def __post_init__(self) -> None:
        if self.slot < 0:
            self.slot = self.index

    @property
    def stable(self) -> int:
        """`num_final` by its name of the last release."""
        warnings.warn(
            "Row.stable is Row.num_final now; the old name works for one release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.num_final

    @property
    def span(self) -> int:
        """The length of text by which its tokens are turned: see `Rotation`."""
        return len(self.tokens) + self.behind

    @property
    def offset(self) -> int:
        """What is added to the place of a token behind the prompt to have its position."""
        return 0 if self.content is None else self.content.offset

    def keys(self, start: int = 0, stop: int | None = None) -> list[int]:
        """What tells its tokens from others, `start .. stop`: their ids, and what only looks alike
        apart (`Prompt.keys`)."""
        keys = self.tokens[start:stop]
        if self.content is not None:
            known = self.content.keys[start:stop]
            keys[: len(known)] = known
        return keys
