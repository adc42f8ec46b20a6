"""FusedKV: the keys and values of several documents at their places in one text."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.model.target import Target
from specdec.offload.saved_documents import SavedDocuments
from specdec.sparse.blend.key_moves import KeyMoves


class FusedKV:
    """Of every layer `k[layer]: [Hkv, T, D]` and `v[layer]: [Hkv, T, Dv]`, to be written to.

    Values are those of each document read alone, and so are its keys, but turned from the places
    they were read at to those they have now. The first document's are what they were.
    """

    def __init__(self, documents: SavedDocuments, target: Target, moves: KeyMoves) -> None:
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        layers = [part.layers(target) for part in documents.parts]
        for layer, read in enumerate(zip(*layers, strict=True)):
            keys, values = [], []
            for (k, v), start, skipped in zip(
                read, documents.starts, documents.skipped, strict=True
            ):
                k, v = k[:, skipped:].to(target.device), v[:, skipped:].to(target.device)
                keys.append(moves(layer, k, skipped, start))
                values.append(v)
            self.k.append(torch.cat(keys, 1))
            self.v.append(torch.cat(values, 1))

    def at(self, layer: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values of a layer at `places[n]`: `[Hkv, n, D]`."""
        k, v = self.k[layer], self.v[layer]
        return k[:, places.to(k.device)], v[:, places.to(v.device)]

    def put(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Write `[Hkv, n, D]` to `places[n]` of a layer, in place."""
        for mine, new in ((self.k, k), (self.v, v)):
            mine[layer][:, places.to(mine[layer].device)] = new.to(mine[layer])
