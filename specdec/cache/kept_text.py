"""KeptText: the keys and values of a text, taken out of a store before its slot is another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from specdec.cache.saved_text import num_common
from specdec.cache.store import KVStore

CHUNK = 512  # tokens that are staged at a time

Read = Callable[[int, int, int], tuple[Tensor, Tensor]]


def write_text(store: KVStore, sequence: int, layers: int, count: int, read: Read) -> None:
    """Commit the first `count` tokens' keys and values to an empty row of a store, in place.

    read: of a layer, from one token to another: keys `[Hkv, n, D]` and values `[Hkv, n, Dv]`.
    """
    for start in range(0, count, CHUNK):
        end = min(start + CHUNK, count)
        for layer in range(layers):
            k, v = read(layer, start, end)
            store.stage(layer, [sequence], k[None], v[None], 0)
        store.commit(sequence, range(end - start))


class KeptNotes(Protocol):
    """What else was kept of a text, beside its keys and values."""

    @property
    def nbytes(self) -> int: ...

    def load(self, store: KVStore, sequence: int, count: int, device: torch.device) -> None:
        """Note what there is of the first `count` tokens for a row of a store, in place; tensors
        on a device."""


class KeptText:
    """A copy of what a store holds of one text; a later one that begins alike goes on from there.

    tokens: what tells them from all others (`Prompt.keys`). k, v: of each layer, `[Hkv, T, D]`.
    notes: what was seen of it.
    """

    def __init__(
        self,
        tokens: list[int],
        k: list[Tensor],
        v: list[Tensor],
        notes: Sequence[KeptNotes] = (),
    ) -> None:
        self.tokens, self.k, self.v, self.notes = tokens, k, v, notes

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        store: KVStore,
        sequence: int,
        tokens: Sequence[int],
        notes: Sequence[KeptNotes] = (),
    ) -> KeptText | None:
        """The first tokens of a row, as far as they are committed, on the host; None where some
        lie on disk, or nothing is."""
        parts: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(store.num_layers)]
        count = store.length(sequence)
        for level, rows in zip(store.levels, store.row_maps, strict=True):
            row = int(rows[sequence])
            length = int(level.length[row])
            for layer, (ks, vs) in enumerate(parts if length else ()):
                k, v = level.k[layer], level.v[layer]
                if k is None or v is None:
                    return None
                ks.append(k[row, :, :length].to("cpu", copy=True))
                vs.append(v[row, :, :length].to("cpu", copy=True))
        if not count:
            return None
        keys, values = ([torch.cat(x, dim=1) for x in xs] for xs in zip(*parts, strict=True))
        return cls(list(tokens[:count]), keys, values, notes)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (*self.k, *self.v)) + sum(x.nbytes for x in self.notes)

    def nearest(self, tokens: Sequence[int]) -> KeptText:
        """Itself, whatever the prompt."""
        return self

    def common(self, tokens: Sequence[int]) -> int:
        """How many of its tokens `tokens` starts with."""
        return num_common(self.tokens, tokens)

    def load(self, target: Any, store: KVStore, sequence: int, count: int) -> None:
        """Commit the first `count` tokens to an empty row of a store, in place."""

        def read(layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
            k, v = self.k[layer][:, start:end], self.v[layer][:, start:end]
            return k.to(target.device), v.to(target.device)

        write_text(store, sequence, len(self.k), count, read)
        for notes in self.notes:
            notes.load(store, sequence, count, target.device)
