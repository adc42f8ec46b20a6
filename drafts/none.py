"""NoDrafter: plain decoding, one token a pass."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict


class NoDrafter(Drafter):
    """Proposes nothing, so that every verification is a plain decoding step."""

    name = "none"

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        pass

    def leave(self, rows: Sequence[Row]) -> None:
        pass

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        """A bare root for every row."""
        return [TokenTree.root(row.tokens[-1]) for row in rows]

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        pass
