"""EpisodeProbe: what the pieces that speak for a question's topic look at (EpiCache)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import Queries
from specdec.sparse.importances.column_sums import AT_ONCE
from specdec.sparse.maths.episodes import Episodes, embedded
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.text import Text

EVERY = 8  # of a piece's queries, those at every so manieth position probe
NAME = "episodes"


@dataclass(frozen=True, eq=False)
class EpisodeProbe:
    """s[h, t] = max over queries i of the topic's pieces, and over the group, of A[h, g, i, t].

    EpiCache (arXiv 2509.17396): the text is cut into pieces, these are clustered by what they are
    about, and the pieces nearest to a cluster's centre are its patched prompt, which is read once
    more behind the text to probe it; the question goes to the nearest topic. Here pieces are
    `piece` tokens (the paper has four utterances, which ids do not show), and nothing is read
    twice: the queries that these pieces had are turned to the text's end, from where they see all
    of it. embed: gives the model's own embeddings `[n, hidden]` of tokens, one of the released
    code's choices.
    """

    embed: Callable[[Sequence[int]], Tensor]
    rotation: KeyRotation | None
    piece: int = 128
    clusters: int = 4
    medoids: int = 4
    page_size: int = 1

    @property
    def needs(self) -> Needs:
        return Needs(probe_every=EVERY)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        if text.probes is None or len(text.tokens) < text.length:
            return None
        pieces = EpisodeNotes.of(text.store, self, text)
        of = torch.tensor(pieces, device=text.probes.at.device)
        mine = text.probes.only(torch.isin(text.probes.at // self.piece, of))
        if not len(mine.at):
            return None
        best = None
        for part in torch.arange(len(mine.at), device=of.device).split(AT_ONCE):
            found = text.attention(self._at_the_end(mine, part, text)).amax(dim=(1, 2))
            best = found if best is None else best.maximum(found)
        return best

    def topic(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The pieces that speak for the topic of a text's end, which is the question."""
        starts = range(0, len(tokens), self.piece)
        pieces = torch.stack([embedded(self.embed(tokens[s : s + self.piece])) for s in starts])
        found = Episodes.found_in(pieces, self.clusters, self.medoids)
        question = embedded(self.embed(tokens[-self.piece :]))
        return found.medoids[found.nearest(question)]

    def _at_the_end(self, queries: Queries, part: Tensor, text: Text) -> Queries:
        """Some queries, turned to the last position of the text."""
        q, at = queries.q[:, part], queries.at[part]
        last = torch.full_like(at, text.length - 1)
        if self.rotation is not None:
            q = self.rotation.turn(self.rotation.turn_back(q, at, text.layer), last, text.layer)
        return Queries(q, last)


@dataclass
class EpisodeNotes:
    """How long each text was, and the pieces that speak for its topic: `Notes` of a store."""

    rows: list[tuple[int, tuple[int, ...]] | None] = field(default_factory=list)
    nbytes = 0

    @classmethod
    def of(cls, store: KVStore, probe: EpisodeProbe, text: Text) -> tuple[int, ...]:
        """Those of a text, found at its first layer that asks."""
        name = f"{NAME} {probe.piece} {probe.clusters} {probe.medoids}"
        known = store.notes.setdefault(name, cls([None] * store.sequences))
        assert isinstance(known, cls)
        row = known.rows[text.sequence]
        if row is None or row[0] != text.length:
            found = probe.topic(text.tokens[: text.length])
            row = known.rows[text.sequence] = text.length, found
        return row[1]

    def crop(self, row: int, length: int) -> None:
        known = self.rows[row]
        if known is not None and (known[0] > length or not length):
            self.rows[row] = None

    def fork(self, sources: Sequence[int]) -> None:
        self.rows = [self.rows[source] for source in sources]
