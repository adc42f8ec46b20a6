"""Retained: what retaining heads foretold of each token when it was read (Locret)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.follower import Accepted, chunk_of
from specdec.forward.observer import SeenPass
from specdec.forward.plan import Needs
from specdec.sparse.calibrations.retaining_heads import RetainingHeads
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.text import Text, held


@dataclass(frozen=True, eq=False)
class Retained:
    """Tokens by their causal importance score (Locret, arXiv 2410.01805, eq. 3).

    A score needs the token's own query, key and value, nothing else, so each is made once, when the
    token is read, and never changes: the view is a `Follower`. The paper drops tokens by it while
    it reads the prompt in chunks of 3,072; here all are kept, and a draft reads the best.
    """

    heads: RetainingHeads
    rotation: KeyRotation | None
    page_size: int = 1

    @property
    def needs(self) -> Needs:
        return Needs(verified=True, followers=(self,))

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`; tokens that were never shown, as of a saved prompt, come first."""
        known = RetainedNotes.of(text.store, self.heads).rows[text.sequence].get(text.layer)
        if known is None:
            return None
        return _reaching(known, text.length)[:, : text.length].to(text.device)

    def chunk(self, call: AttentionCall, pass_: SeenPass) -> None:
        """See `Follower`."""
        for b, sequence in enumerate(pass_.sequences):
            start, count = chunk_of(pass_, b)
            q, k, v = (x[b][:, :count] for x in (call.q, call.k, call.v))
            self._note(pass_.store, sequence, call.layer, start, q, k, v)

    def accepted(self, store: KVStore, sequence: int, layers: Mapping[int, Accepted]) -> None:
        """See `Follower`."""
        length = store.length(sequence)
        for layer, seen in layers.items():
            counts = [
                int(level.length[rows[sequence]])
                for level, rows in zip(store.levels, store.row_maps, strict=True)
            ]
            k, v = held(store, sequence, layer, counts, seen.q.device)
            first = length - seen.q.shape[1]
            self._note(store, sequence, layer, first, seen.q, k[:, first:], v[:, first:])

    def _note(
        self, store: KVStore, sequence: int, layer: int, start: int, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        """Take up tokens from position `start` on: `q[Hq, n, D]`, `k, v[Hkv, n, ..]`."""
        if self.rotation is not None:
            at = torch.arange(start, start + q.shape[1], device=q.device)
            q, k = (self.rotation.turn_back(x, at, layer) for x in (q, k))
        fresh = self.heads.scores(layer, q, k, v)
        rows = RetainedNotes.of(store, self.heads).rows[sequence]
        before = rows.get(layer, fresh[:, :0])
        rows[layer] = torch.cat([_reaching(before, start)[:, :start], fresh], dim=1)


def _reaching(score: Tensor, length: int) -> Tensor:
    """At least so many tokens: those that are missing matter most."""
    return pad(score, (0, max(0, length - score.shape[1])), value=torch.finfo(score.dtype).max)


@dataclass
class RetainedNotes:
    """Scores `[Hkv, T]` by layer that some heads foretold, for each text of a store: `Notes`."""

    rows: list[dict[int, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, store: KVStore, heads: RetainingHeads) -> RetainedNotes:
        """Those of a store and of these heads, empty at first."""
        known = store.notes.setdefault(heads, cls([{} for _ in range(store.sequences)]))
        assert isinstance(known, cls)
        return known

    @property
    def nbytes(self) -> int:
        return sum({id(x): x.nbytes for row in self.rows for x in row.values()}.values())

    def crop(self, row: int, length: int) -> None:
        known = self.rows[row] if length else {}
        self.rows[row] = {layer: x[:, :length] for layer, x in known.items()}

    def fork(self, sources: Sequence[int]) -> None:
        """Scores are never changed in place, so they are shared."""
        self.rows = [dict(self.rows[source]) for source in sources]
