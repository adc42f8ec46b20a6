"""Ledger: a step scorer's statistics of the texts in a store, which follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.cache.store import KVStore
from specdec.sparse.importances.base import Statistics, StepScorer


@dataclass
class Account:
    """Of one text: statistics by layer, and how many of its tokens were read as a prompt."""

    layers: dict[int, Statistics]
    prompt: int = 0


class Ledger:
    """Statistics `[Hkv, T, ...]` of every token that has been committed: `Notes` of a store.

    Tokens that are taken back leave it. What their queries gave to tokens before them stays: they
    did look there.
    """

    def __init__(self, sequences: int) -> None:
        self.accounts = [Account({}) for _ in range(sequences)]

    @classmethod
    def of(cls, store: KVStore, step: StepScorer) -> Ledger:
        """That of a scorer in a store, empty at first."""
        known = store.notes.setdefault(f"statistics {step.key}", cls(store.sequences))
        assert isinstance(known, cls)
        return known

    @property
    def nbytes(self) -> int:
        every = (x for one in self.accounts for kept in one.layers.values() for x in kept)
        return sum(x.nbytes for x in every)

    def crop(self, row: int, length: int) -> None:
        if not length:
            self.accounts[row] = Account({})
        account = self.accounts[row]
        for layer, kept in account.layers.items():
            account.layers[layer] = tuple(x[:, :length] for x in kept)
        account.prompt = min(account.prompt, length)

    def fork(self, sources: Sequence[int]) -> None:
        self.accounts = [
            Account(
                {
                    layer: tuple(x.clone() for x in kept)
                    for layer, kept in self.accounts[source].layers.items()
                },
                self.accounts[source].prompt,
            )
            for source in sources
        ]
