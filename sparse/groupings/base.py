"""Grouping: a text in groups of uneven size, of which those are read that a query asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from specdec.forward.plan import Entries, Needs
from specdec.sparse.text import Text

Lines = tuple[Tensor, ...]  # what is kept of groups: each `[Hkv, any, ...]`, in the groups' order


@dataclass(frozen=True, eq=False)
class Stretch:
    """The committed tokens of one row of a level, in one layer.

    text: all committed tokens of the sequence, of which `offset` stand in levels below. k, v:
    `[Hkv, capacity, D]`, where the level has them; the first `length` tokens are committed.
    """

    text: Text
    k: Tensor
    v: Tensor
    length: int
    offset: int

    def tokens(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of some tokens, where queries are; float32 at least."""
        k, v = (x[:, start:end].to(self.text.device) for x in (self.k, self.v))
        wide = torch.promote_types(k.dtype, torch.float32)
        return k.to(wide), v.to(wide)


@dataclass(frozen=True, eq=False)
class Asked:
    """What groups are chosen by, and how much of them.

    text: the tokens that are in groups, S of them, counted through the levels. open_at: place of
    the first token of the open end. q: the layer's own queries `[H, n, D]`. held: the lines of each
    level that has groups. count: tokens to read of each head, the `first` and the `last` of the S
    included.
    """

    text: Text
    open_at: int
    q: Tensor
    held: Sequence[Lines]
    count: int
    first: int
    last: int


class Chosen(NamedTuple):
    """tokens: `int64[Hkv, n]`, best first, -1 for none. entries: for those that are left out."""

    tokens: Tensor
    entries: Entries | None = None


class Grouping(Protocol):
    """Cuts what is committed into *parts*, and these into groups, once; then chooses groups.

    A part is what is grouped together, and is forgotten together when a token of it is taken back:
    a sentence, or a whole prompt in clusters. Where parts end follows from the text, so groups are
    the same however it was written. What is behind the last part is still open, and always read.
    """

    @property
    def key(self) -> str:
        """Name of its lines: groupings with the same key can share them."""

    @property
    def needs(self) -> Needs:
        """The queries that it goes by, besides the layer's own."""

    @property
    def estimates(self) -> bool:
        """Whether it makes entries for what is left out."""

    def ends(self, at: Stretch, known: Sequence[int]) -> list[int]:
        """Where parts end in a level, ascending. known: those that stand; they may be kept."""

    def lines(self, at: Stretch, start: int, end: int) -> Lines:
        """What is kept of the part `start .. end`; as many tensors for each part."""

    def choose(self, asked: Asked) -> Chosen:
        """The forced tokens, and those of the best groups, until `count` of them are read."""
