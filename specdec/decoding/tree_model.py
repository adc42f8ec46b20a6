"""TreeModel: what a drafter that runs a model asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from specdec.forward.view_reads import ReadStats
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree


class TreeModel(Protocol):
    """Reads trees of draft tokens behind the text of rows, which it follows by itself. It is made
    with the rows that join first.

    A round begins with `forward`; `grow` goes on from there. Nodes that were read stand in slots,
    by which their children name them.

    ids: `int64[columns]`, the tokens that columns of its logits stand for; None for all tokens in
        order. Others are never drafted.
    """

    ids: Tensor | None

    def join(self, rows: Sequence[Row]) -> None:
        """Take up more rows, whose slots are free."""

    def leave(self, rows: Sequence[Row]) -> None:
        """Forget rows: their slots are other texts' from now on."""

    def forward(self, rows: Sequence[Row], trees: Sequence[TokenTree]) -> list[Tensor]:
        """Logits `[len(tree), columns]` after every node of each row's tree, in one pass."""

    def root_slot(self, row: Row) -> int:
        """The slot of the last tree's root, from which `grow` goes on."""

    def grow(
        self, rows: Sequence[Row], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> tuple[int, Tensor]:
        """Read more nodes below those already read in this round: `parents` are slots.

        Returns the first new slot (new nodes stand there in order) and the logits
        `[B, n, columns]`, where rows with fewer nodes than n are padded.
        """

    def reads(self, sequence: int) -> dict[str, ReadStats]:
        """What a sparse view has read for the row in a slot, by its name; the full one counts
        nothing."""
