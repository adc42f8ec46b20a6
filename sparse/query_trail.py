"""QueryTrail: the last queries that a text went through, and where they turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.follower import Accepted, chunk_of
from specdec.forward.observer import SeenPass
from specdec.forward.prompt_queries import Queries
from specdec.sparse.text import Text
from specdec.sparse.triggers.query_turn import likeness

KEPT = 64  # queries of each layer
NAME = "trail of queries"


@dataclass(frozen=True)
class QueryTrail:
    """Keeps the last `KEPT` queries of each layer of a text, whether read or written: a `Follower`.

    With them goes how alike each query was to the one before, of all that was written.
    """

    def chunk(self, call: AttentionCall, pass_: SeenPass) -> None:
        """See `Follower`."""
        trails = Trails.of(pass_.store)
        for b, sequence in enumerate(pass_.sequences):
            start, count = chunk_of(pass_, b)
            trails.rows[sequence].read(start + count)
            trails.rows[sequence].take_up(call.layer, call.q[b, :, :count], start)

    def accepted(self, store: KVStore, sequence: int, layers: Mapping[int, Accepted]) -> None:
        """See `Follower`."""
        trail, end = Trails.of(store).rows[sequence], store.length(sequence)
        for layer, seen in layers.items():
            trail.take_up(layer, seen.q, end - seen.q.shape[1], is_written=True)


@dataclass
class Trail:
    """Of one text. prompt: its leading tokens that were read and not written. last: by layer.
    alike: by layer for each token behind the prompt; nan where the query before is not known."""

    prompt: int = 0
    last: dict[int, Queries] = field(default_factory=dict)
    alike: dict[int, list[float]] = field(default_factory=dict)

    def read(self, prompt: int) -> None:
        """So many tokens are the prompt now; what stood before it counts as read, too."""
        if prompt != self.prompt:
            self.prompt = prompt
            self.alike.clear()

    def take_up(self, layer: int, q: Tensor, start: int, is_written: bool = False) -> None:
        """Queries `q[H, n, D]` of the tokens from `start` on."""
        known = self.last.get(layer)
        fresh = Queries(q, torch.arange(start, start + q.shape[1], device=q.device))
        if is_written and q.shape[1]:
            before = torch.full_like(q[:, 0], torch.nan)
            if known is not None and len(known.at) and int(known.at[-1]) == start - 1:
                before = known.q[:, -1]
            self.alike.setdefault(layer, []).extend(likeness(before, q).tolist())
        if known is None or q.shape[1] >= KEPT:
            self.last[layer] = fresh.last(KEPT)
        else:
            self.last[layer] = known.then(fresh).last(KEPT)

    def since(self, layer: int, start: int) -> Tensor | None:
        """The queries `[H, m, D]` of the tokens from `start` on, as far as they are kept."""
        known = self.last.get(layer)
        return None if known is None else known.q[:, known.at >= start]

    def crop(self, length: int) -> None:
        """Forget the tokens behind the first `length`."""
        for layer, known in self.last.items():
            self.last[layer] = known.only(known.at < length)
        for alike in self.alike.values():
            del alike[max(0, length - self.prompt) :]
        self.prompt = min(self.prompt, length)


class Trails:
    """The trails of a store's texts: `Notes`."""

    def __init__(self, sequences: int) -> None:
        self.rows = [Trail() for _ in range(sequences)]

    @classmethod
    def of(cls, store: KVStore) -> Trails:
        """Those of a store, empty at first."""
        known = store.notes.setdefault(NAME, cls(store.sequences))
        assert isinstance(known, cls)
        return known

    @classmethod
    def prompt_of(cls, text: Text) -> int:
        """How many tokens of a text were read as its prompt."""
        return cls.of(text.store).rows[text.sequence].prompt

    @property
    def nbytes(self) -> int:
        return sum({id(x): x.q.nbytes for row in self.rows for x in row.last.values()}.values())

    def crop(self, row: int, length: int) -> None:
        if length:
            self.rows[row].crop(length)
        else:
            self.rows[row] = Trail()

    def fork(self, sources: Sequence[int]) -> None:
        self.rows = [
            Trail(
                self.rows[s].prompt,
                dict(self.rows[s].last),
                {layer: list(x) for layer, x in self.rows[s].alike.items()},
            )
            for s in sources
        ]
