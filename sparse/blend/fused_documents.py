"""FusedDocuments: saved documents as one text that need not be read, with some of it read again."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.full_view import FullView
from specdec.model.chunks import PREFILL_CHUNK
from specdec.model.early_exit import first_layers
from specdec.model.target import Target
from specdec.offload.saved_documents import SavedDocuments
from specdec.sparse.blend.deviation import deviation, farthest
from specdec.sparse.blend.fused_kv import FusedKV
from specdec.sparse.blend.key_moves import KeyMoves
from specdec.sparse.blend.rereading import reread

log = logging.getLogger("specdec")

CHECK = 1  # first layer whose keys and values depend on what stands before a token
WIDER = 1.5  # ours: how many times as many are chosen there as in the layer after it


class FusedDocuments:
    """What a store holds of documents that were read apart, after CacheBlend (arXiv 2405.16444).

    1. Keys are turned to their places in the text (`FusedKV`); the first document's are exact.
    2. All tokens of the others go through the layers up to CHECK, whose keys and values are then
       exact, too. Those `WIDER * share` of all tokens that deviate most there (`deviation`) are
       read again up to the next layer, and `share` of all tokens, those of them that deviate most
       there, through all layers: the paper's gradual filtering, in two steps.
    3. New keys and values take the old ones' places layer by layer, as tokens are read.

    Departures: passes are of an unmodified model, so the chosen tokens begin at its first layer
    again (their keys and values there are the same), and filtering ends after two layers, as the
    code of LMCache does after one. That looks at keys alone; the paper, and this, at both. Files
    are read before passes begin, not layer by layer beside them. The text after the documents is
    read as any prompt is, over what this holds.

    Made once and held for a call, on the target's device. share: from 0 to 1; with 1 all is exact.
    Raises UnsupportedModel for a model whose keys cannot be moved.
    """

    def __init__(self, documents: SavedDocuments, target: Target, share: float) -> None:
        self.documents, self.target = documents, target
        self.tokens = documents.tokens
        self.share = share
        self._moves = KeyMoves(target, self.tokens[0])

    def nearest(self, tokens: Sequence[int]) -> FusedDocuments:
        """Itself, whatever the prompt."""
        return self

    def common(self, tokens: Sequence[int]) -> int:
        """All of the documents' tokens, with which every prompt of the call starts."""
        assert list(tokens[: len(self.tokens)]) == self.tokens
        return len(self.tokens)

    def load(self, target: Target, store: KVStore, sequence: int, count: int) -> None:
        """Commit the first `count` tokens' keys and values to an empty row of a store."""
        for start in range(0, count, PREFILL_CHUNK):
            end = min(start + PREFILL_CHUNK, count)
            for layer in range(target.num_layers):
                k, v = (x[layer][None, :, start:end] for x in (self.kv.k, self.kv.v))
                store.stage(layer, [sequence], k, v, 0)
            store.commit(sequence, range(end - start))

    @property
    def first_moved(self) -> int:
        """The first token whose keys and values are not those of the whole text already."""
        return self.documents.starts[1] if len(self.documents.starts) > 1 else len(self.tokens)

    @cached_property
    @torch.inference_mode()
    def kv(self) -> FusedKV:
        """Keys and values of all documents, with those tokens read again that deviate most."""
        kv = FusedKV(self.documents, self.target, self._moves)
        chosen = self._chosen(kv)
        log.info(
            "%d documents of %d tokens fused, of which %d are read again",
            len(self.documents.parts), len(self.tokens), len(chosen),
        )  # fmt: skip
        if len(chosen):
            reread(self.target, self.tokens, chosen, kv)
        return kv

    def _chosen(self, kv: FusedKV) -> Tensor:
        """Places of the tokens to read again, in order; layers up to the last that was looked at
        have been brought up to date in `kv`."""
        moved = torch.arange(self.first_moved, len(self.tokens))
        count = min(len(moved), math.ceil(self.share * len(self.tokens)))
        if count == len(moved) or not count or self.target.num_layers <= CHECK:
            return moved[:count]
        filters = self.target.num_layers > CHECK + 1
        wide = min(len(moved), math.ceil(WIDER * count)) if filters else count
        old = kv.at(CHECK, moved)
        self._read_first_layers(kv)
        chosen = moved[farthest(deviation(*old, *kv.at(CHECK, moved)), wide).cpu()]
        if wide > count:
            old = kv.at(CHECK + 1, chosen)
            reread(self._short(CHECK + 2), self.tokens, chosen, kv)
            chosen = chosen[farthest(deviation(*old, *kv.at(CHECK + 1, chosen)), count).cpu()]
        return chosen

    def _read_first_layers(self, kv: FusedKV) -> None:
        """All tokens but the first document's go through the layers up to CHECK, as a prompt."""
        short, start = self._short(CHECK + 1), self.first_moved
        store = KVStore(short.num_layers, 1, len(self.tokens) + PREFILL_CHUNK)
        for layer in range(short.num_layers):
            k, v = kv.k[layer][None, :, :start], kv.v[layer][None, :, :start]
            store.stage(layer, [0], k, v, 0)
        store.commit(0, range(start))
        short.prefill(store, FullView(), 0, self.tokens[start:])
        places = torch.arange(start, len(self.tokens))
        for layer in range(CHECK + 1):
            read = store.levels[0].k[layer], store.levels[0].v[layer]
            k, v = (x[0, :, start : len(self.tokens)] for x in read if x is not None)
            kv.put(layer, places, k, v)

    def _short(self, count: int) -> Target:
        """The first `count` layers of the model."""
        if count >= self.target.num_layers:
            return self.target
        return Target(first_layers(self.target.model, count), borrowed=True)
