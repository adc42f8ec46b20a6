"""Replay: what a drafter would have gained on a text that the target has already written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from specdec.decoding.drafter import Drafter
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sampling.noise import Noise
from specdec.sampling.prompt import Prompt
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row


@dataclass
class Gain:
    """Rounds of speculation, tokens they emitted, and rounds whose first draft was right.

    positions: how many rounds reached each depth with their drafts right.
    """

    rounds: int = 0
    tokens: int = 0
    positions: tuple[int, ...] = ()

    @property
    def acceptance_length(self) -> float:
        """Tokens emitted per pass of the target."""
        return self.tokens / max(1, self.rounds)

    def __add__(self, other: Gain) -> Gain:
        longest = max(len(self.positions), len(other.positions))
        pairs = ((*x.positions, *[0] * (longest - len(x.positions))) for x in (self, other))
        return Gain(
            self.rounds + other.rounds,
            self.tokens + other.tokens,
            tuple(a + b for a, b in zip(*pairs, strict=True)),
        )


class Written:
    """A verifier that has read a whole text, and shows as much of its KV as was committed.

    content: what its prompt holds besides ids.
    """

    @torch.inference_mode()
    def __init__(self, target: Target, text: Sequence[int], content: Prompt | None = None) -> None:
        self.target, self.text, self.content = target, list(text), content
        self.store = target.new_store(1, len(text) + 1)
        target.prefill(self.store, FullView(), 0, text, content=content)

    @property
    def holder(self) -> Written:
        """Whose KV the target has written: as `CachedModel.holder`."""
        return self

    def sync_to(self, row: Row | None, upto: int) -> None:
        """Show the KV of the first `upto` tokens."""
        self.store.levels[-1].resize(0, upto)


@torch.inference_mode()
def replay(drafter: Drafter, written: Written, start: int) -> Gain:
    """Greedy rounds over a text whose tokens from `start` on are the target's own greedy choice.

    Each round drafts after what is committed, keeps the deepest path that the text goes through,
    and one token more: the figures are those of real generation, without verifying again.
    """
    verifier: Any = written
    text = written.text
    row = Row(0, 0, list(text[:start]), start, len(text), _greedy(), start, content=written.content)
    drafter.join([row], verifier)
    gain = Gain()
    while len(row.tokens) < len(text):
        room = len(text) - len(row.tokens) - 1
        (tree,) = drafter.propose([row], [room])
        node, kept = 0, 0
        while (child := tree.child(node, text[len(row.tokens) + kept])) is not None:
            node, kept = child, kept + 1
            if len(row.tokens) + kept >= len(text):
                break
        emitted = min(kept + 1, len(text) - len(row.tokens))
        gain += Gain(1, emitted, tuple([1] * kept))
        row.tokens.extend(text[len(row.tokens) : len(row.tokens) + emitted])
        row.num_final, row.round = len(row.tokens), row.round + 1
    return gain


def _greedy() -> Sampler:
    return Sampler([], False, Noise(0))
