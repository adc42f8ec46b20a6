"""CodedCopy: what is committed in a level of the store, once more as a codec keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.forward.plan import Partial
from specdec.sparse.codecs.base import Place
from specdec.sparse.codecs.codec import Codec


@dataclass(eq=False)
class CodedRow:
    """Whole blocks of one row's committed text, in the layers that a codec takes together.

    coded: buffers `[any, >= blocks, ...]`, which double as they grow. learned: by the codec from
    the `learned_of` tokens that were there first. Blocks are encoded once, from the target's own
    keys and values; what is not a whole block yet is read as it is.
    """

    codec: Codec
    layers: tuple[int, ...]
    blocks: int = 0
    coded: list[list[Tensor]] = field(default_factory=list)
    learned: Any = None
    learned_of: int = 0

    def update(
        self, level: Level, row: int, recent: int, start: int, queries: Tensor | None, known: Any,
        device: torch.device,
    ) -> None:  # fmt: skip
        """Take up, in place, the blocks that are full now, but for the `recent` last tokens.

        start: tokens of the text before this level. queries: see `Place`. known: what was learned
        of the levels before, if anything. What lies elsewhere is brought to `device`, once.
        """
        size = self.codec.block
        full = max(int(level.length[row]) - recent, 0) // size
        if full <= self.blocks:
            return
        first, last = self.blocks * size, full * size
        k = self._taken(level, level.k, row, first, last, device)
        v = k[..., :0]
        if self.codec.keeps_values:
            v = self._taken(level, level.v, row, first, last, device)
        positions = torch.arange(start + first, start + last).view(-1, size)
        heads = len(k) // len(self.layers)
        at = Place(self.layers, heads, positions.to(k.device), queries)
        if self.learned is None:
            self.learned = self.codec.learn(k, v, at) if known is None else known
            self.learned_of = full * size if known is None else 0
        for i, parts in enumerate(self.codec.encode(k, v, at, self.learned)):
            if i == len(self.coded):
                self.coded.append([x[:, :0] for x in parts])
            held = self.coded[i]
            self.coded[i] = [
                _extended(old, new, self.blocks) for old, new in zip(held, parts, strict=True)
            ]
        self.blocks = full

    def _taken(
        self, level: Level, buffers: list[Tensor | None], row: int, first: int, last: int,
        device: torch.device,
    ) -> Tensor:  # fmt: skip
        """Tokens `first .. last` of a row in all layers, as whole blocks `[H, P, S, D]`."""
        parts = [
            level.bring(_held(buffers, layer), layer, row, first, last, device)
            for layer in self.layers
        ]
        return torch.cat(parts).unflatten(1, (-1, self.codec.block))

    def decode(
        self, layer: int, heads: int, start: int, blocks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """About the keys and values `[Hkv, tokens, D]` of one layer, of all blocks or of
        `blocks: int64[n]`."""
        size = self.codec.block
        coded = tuple(tuple(x[:, : self.blocks] for x in parts) for parts in self.coded)
        positions = torch.arange(start, start + self.tokens).view(-1, size)
        if blocks is not None:
            coded = tuple(tuple(x[:, blocks] for x in parts) for parts in coded)
            positions = positions[blocks]
        positions = positions.to(coded[0][0].device)
        at = Place(self.layers, heads, positions, which=self.layers.index(layer))
        k, v = self.codec.decode(coded, at, self.learned)
        return k.flatten(1, 2), v.flatten(1, 2)

    def attend(self, q: Tensor, end: int, scale: float, softcap: float | None) -> Partial | None:
        """Attention over the first `end` tokens, where the codec reads them as they are kept."""
        coded = tuple(tuple(parts) for parts in self.coded)
        return self.codec.attend(coded, q, end, scale, softcap)

    @property
    def tokens(self) -> int:
        return self.blocks * self.codec.block

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks, and of what was learned."""
        blocks = sum(x[:, : self.blocks].nbytes for parts in self.coded for x in parts)
        return blocks + sum(x.nbytes for x in _tensors(self.learned))

    @property
    def token_bytes(self) -> float:
        """Bytes of a token in one layer, its part of what was learned included."""
        return self.nbytes / (self.tokens * len(self.layers)) if self.tokens else 0.0

    def crop(self, length: int) -> None:
        """Forget blocks that are not full any more, and what was learned of tokens that are gone:
        then all is encoded anew."""
        self.blocks = min(self.blocks, length // self.codec.block)
        if length < self.learned_of:
            self.blocks, self.learned, self.coded = 0, None, []


@dataclass(frozen=True)
class CopyKind:
    """All that a copy depends on besides the text: views of one kind share it, others do not.

    layers: that the codec takes together. recent: see `CodedRow.update`. asks_queries, prompt_only:
    see `CodedView`; what is learned, and what is taken up, differs by them.
    """

    codec: Codec
    layers: tuple[int, ...]
    recent: int = 0
    asks_queries: bool = False
    prompt_only: bool = False


@dataclass(eq=False)
class CodedCopy:
    """The copies of a level's rows, of one kind: a `Beside`."""

    kind: CopyKind
    rows: dict[int, CodedRow] = field(default_factory=dict)

    @classmethod
    def of(cls, level: Level, kind: CopyKind) -> CodedCopy:
        """The copy that is kept beside a level, from the first call."""
        known = level.beside.get(kind)
        if known is None:
            known = level.beside[kind] = cls(kind)
        assert isinstance(known, cls)
        return known

    def row(self, row: int) -> CodedRow:
        return self.rows.setdefault(row, CodedRow(self.kind.codec, self.kind.layers))

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows.values())

    def crop(self, row: int, length: int) -> None:
        if not length:
            self.rows.pop(row, None)
        elif row in self.rows:
            self.rows[row].crop(length)


def _held(buffers: list[Tensor | None], layer: int) -> Tensor:
    found = buffers[layer]
    assert found is not None
    return found


def _extended(old: Tensor, new: Tensor, count: int) -> Tensor:
    """`old[:, :count]` with `new` behind it, in a buffer with room to grow."""
    need = count + new.shape[1]
    if old.shape[1] < need:
        room = need if count == 0 else max(need, 2 * old.shape[1])
        grown = new.new_empty(new.shape[0], room, *new.shape[2:])
        grown[:, :count] = old[:, :count]
        old = grown
    old[:, count:need] = new
    return old


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple):
        for each in x:
            yield from _tensors(each)
