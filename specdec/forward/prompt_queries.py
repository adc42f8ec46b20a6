"""PromptQueries: the queries of prompts that somebody will choose by, kept beside their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import KVStore

NAME = "queries of prompts"


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries `q[H, n, D]` of a text, at the positions `at: int64[n]`."""

    q: Tensor
    at: Tensor

    def then(self, others: Queries) -> Queries:
        """These, and others behind them."""
        return Queries(torch.cat([self.q, others.q], dim=1), torch.cat([self.at, others.at]))

    def last(self, count: int) -> Queries:
        """A copy of the last `count` of them."""
        return Queries(self.q[:, -count:].clone(), self.at[-count:].clone())

    def every(self, stride: int) -> Queries:
        """A copy of those at positions that `stride` divides."""
        return self.only(self.at % stride == 0)

    def only(self, mine: Tensor) -> Queries:
        """A copy of those for which `mine: bool[n]` is true."""
        return Queries(self.q[:, mine], self.at[mine])


@dataclass(frozen=True, eq=False)
class KeptProbes:
    """Probes of one text by layer, on the host, for a later one that begins alike: `KeptNotes`."""

    layers: dict[int, Queries]

    @property
    def nbytes(self) -> int:
        return sum(x.q.nbytes for x in self.layers.values())

    def load(self, store: KVStore, sequence: int, count: int, device: torch.device) -> None:
        """See `KeptNotes`: those of the first `count` tokens."""
        near = PromptQueries.of(store).probes[sequence]
        for layer, kept in self.layers.items():
            mine = kept.only(kept.at < count)
            near[layer] = Queries(mine.q.to(device), mine.at.to(device))


class PromptQueries:
    """The last queries of each prompt, and some of all of them, by sequence: `Notes` of a store.

    window, probes: `[sequence][layer]`. Rows of one prompt share what they have.
    """

    def __init__(self, sequences: int) -> None:
        self.window: list[dict[int, Queries]] = [{} for _ in range(sequences)]
        self.probes: list[dict[int, Queries]] = [{} for _ in range(sequences)]

    @classmethod
    def of(cls, store: KVStore) -> PromptQueries:
        """Those of a store, empty at first."""
        known = store.notes.setdefault(NAME, cls(store.sequences))
        assert isinstance(known, cls)
        return known

    def note(
        self, sequence: int, layer: int, chunk: Queries, window: int, probe_every: int
    ) -> None:
        """Take up the queries of a chunk: the last `window` of all are kept, and those at every
        `probe_every`-th position; 0 keeps none."""
        if window:
            known = self.window[sequence].get(layer)
            whole = chunk if known is None or len(chunk.at) >= window else known.then(chunk)
            self.window[sequence][layer] = whole.last(window)
        if probe_every:
            known, probes = (
                self.probes[sequence].get(layer),
                chunk.every(probe_every),
            )
            self.probes[sequence][layer] = probes if known is None else known.then(probes)

    @classmethod
    def kept(cls, store: KVStore, sequence: int) -> list[KeptProbes]:
        """What a later text goes on from that begins like a row of a store: nothing, or probes.

        The last queries are no part of it: that text has a question of its own.
        """
        probes = cls.of(store).probes[sequence] if NAME in store.notes else {}
        layers = {n: Queries(x.q.to("cpu"), x.at.to("cpu")) for n, x in probes.items()}
        return [KeptProbes(layers)] if layers else []

    @property
    def nbytes(self) -> int:
        held = {id(x): x.q.nbytes for kept in (self.window, self.probes) for y in kept
                for x in y.values()}  # fmt: skip
        return sum(held.values())

    def crop(self, row: int, length: int) -> None:
        for kept in (self.window, self.probes):
            if not length:
                kept[row] = {}
            for layer, queries in kept[row].items():
                if bool((queries.at >= length).any()):
                    kept[row][layer] = queries.only(queries.at < length)

    def fork(self, sources: Sequence[int]) -> None:
        self.window = [dict(self.window[s]) for s in sources]
        self.probes = [dict(self.probes[s]) for s in sources]
