"""SpecVlmModel: the LongSpec block, whose cross-attention reads images as few entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import Prepared
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.specvlm.branches import Branch, Entries, Image
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.model.target import Target
from specdec.sampling.prompt import Prompt
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree


class SpecVlmModel(LongSpecModel):
    """Text is read where the target has cached it; of an image, `tokens` entries at most.

    These are made once, of the KV that the target has committed, and are all that is kept besides
    LongSpec's window: `tokens` keys and values of one layer for each image of a prompt.
    """

    def __init__(
        self,
        target: Target,
        parts: Prepared,
        verifier: CachedModel,
        branch: Branch,
        tokens: int,
    ) -> None:
        super().__init__(target, parts.block, parts.rotary, parts.head, parts.ids, verifier)
        self.branch, self.tokens = branch, tokens
        self.kept: dict[int, Entries | None] = {}  # by prompt, whose rows share them
        self._rows: dict[int, Row] = {}  # by slot

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row], trees: Sequence[TokenTree]) -> list[Tensor]:
        """As LongSpec's; the first time, images are made small."""
        self._rows = {row.slot: row for row in rows}
        return super().forward(rows, trees)

    @property
    def nbytes(self) -> int:
        """Bytes of the drafter's own cache, the same for every length of text."""
        return super().nbytes + sum(x.nbytes for x in self.kept.values() if x is not None)

    def _far(self, h: Tensor, positions: Tensor, sequences: list[int]) -> Tensor:
        """Cross-attention over committed text, and over entries in place of images."""
        seen = [self._entries(self._rows[i]) for i in sequences]
        if all(entries is None for entries in seen):
            return super()._far(h, positions, sequences)
        q = self.block.cross_query(h, self.rotary, positions)
        partials = [*self._text(q, sequences), self._images(q, seen)]
        return merge(partials)[0].to(q.dtype)

    def _text(self, q: Tensor, sequences: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Partials over what is no image: of each level, the pieces between images."""
        sizes, store = self.block.sizes, self.holder.store
        before = torch.zeros(len(sequences), dtype=torch.int64)
        found = []
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            keys, values = level.k[sizes.kv_layer], level.v[sizes.kv_layer]
            read = row_map[sequences]
            held = level.length[read].long()
            pieces = [
                _pieces(self._rows[i].content, int(start), int(start + count))
                for i, start, count in zip(sequences, before, held, strict=True)
            ]
            before = before + held
            for number in range(max(map(len, pieces))):
                ends = torch.zeros_like(level.length)
                first = torch.zeros(len(sequences), q.shape[2], dtype=torch.int64)
                for b, some in enumerate(pieces):
                    start, end = some[number] if number < len(some) else (0, 0)
                    ends[read[b]], first[b] = end, start
                if keys is not None and values is not None and bool(ends.any()):
                    scale = sizes.head_dim**-0.5
                    found.append(
                        prefix_attention(
                            q, keys, values, ends, read, scale=scale, first=first.to(q.device)
                        )
                    )
        return found

    def _images(self, q: Tensor, seen: list[Entries | None]) -> tuple[Tensor, Tensor]:
        """The partial over entries; rows may have different numbers of them."""
        sizes = self.block.sizes
        lengths = [0 if x is None else x.k.shape[1] for x in seen]
        heads, most = sizes.num_kv_heads, max(lengths)
        k = q.new_zeros(len(seen), heads, most, sizes.head_dim)
        v = q.new_zeros(len(seen), heads, most, sizes.value_dim)
        bias = q.new_zeros(len(seen), heads, most, dtype=torch.float32)
        for b, entries in enumerate(seen):
            if entries is not None:
                k[b, :, : lengths[b]], v[b, :, : lengths[b]] = entries.k, entries.v
                bias[b, :, : lengths[b]] = entries.log_weight
        length = torch.tensor(lengths, dtype=torch.int32)
        rows = torch.arange(len(seen), dtype=torch.int32)
        return prefix_attention(q, k, v, length, rows, scale=sizes.head_dim**-0.5, bias=bias)

    def _entries(self, row: Row) -> Entries | None:
        """What stands for the images of a row's prompt."""
        if row.prompt_index not in self.kept:
            self.kept[row.prompt_index] = self._made(row)
        return self.kept[row.prompt_index]

    def _made(self, row: Row) -> Entries | None:
        content = row.content
        if content is None or not content.spans:
            return None
        made = []
        for span in content.spans:
            k, v = self._cached(row, span.start, span.end)
            positions = torch.arange(span.start, span.end)
            image = Image(k, v, positions if content.positions is None else None)
            made.append(self.branch(image, self.tokens, self.rotary))
        return Entries(
            torch.cat([x.k for x in made], 1),
            torch.cat([x.v for x in made], 1),
            torch.cat([x.log_weight for x in made]),
        )

    def _cached(self, row: Row, start: int, end: int) -> tuple[Tensor, Tensor]:
        """The target's committed k, v `[Hkv, n, D]` of tokens `start .. end`, wherever they lie."""
        store, layer, before = self.holder.store, self.block.sizes.kv_layer, 0
        parts = []
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            place = int(row_map[row.index])
            count = int(level.length[place])
            first, last = max(start - before, 0), min(end - before, count)
            keys, values = level.k[layer], level.v[layer]
            if first < last:
                assert keys is not None and values is not None
                parts.append((keys[place, :, first:last], values[place, :, first:last]))
            before += count
        assert sum(k.shape[1] for k, _ in parts) == end - start, "an image that is not read yet"
        return torch.cat([k for k, _ in parts], 1), torch.cat([v for _, v in parts], 1)


def _pieces(content: Prompt | None, start: int, end: int) -> list[tuple[int, int]]:
    """What of tokens `start .. end` of a text is no image, counted from `start`."""
    pieces, at = [], start
    for span in () if content is None else content.spans:
        if span.end <= at or span.start >= end:
            continue
        if span.start > at:
            pieces.append((at - start, span.start - start))
        at = min(span.end, end)
    if at < end:
        pieces.append((at - start, end - start))
    return pieces
