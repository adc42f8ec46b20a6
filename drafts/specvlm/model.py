"""SpecVlmModel: the LongSpec block, whose cross-attention reads images as few entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.far_reads import FarReads
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.specvlm.compressor import BRANCHES, GATE
from specdec.drafts.specvlm.gate import mean_value
from specdec.drafts.specvlm.image import Entries, Image
from specdec.drafts.specvlm.prepared import PreparedImages
from specdec.model.target import Target
from specdec.sampling.prompt import Prompt
from specdec.sampling.sequence import Row
from specdec.sampling.span import Span
from specdec.sampling.tree import TokenTree


class SpecVlmModel(LongSpecModel):
    """Text is read where the target has cached it; of an image, `tokens` entries at most.

    These are made once, of the KV that the target has committed, and are all that is kept besides
    LongSpec's window: `tokens` keys and values of one layer for each image of a prompt, for as long
    as a row of it is decoded.

    branch: its name, or "gate" for the one that the gate chooses. chosen: how often which was.
    """

    def __init__(
        self,
        target: Target,
        images: PreparedImages,
        verifier: CachedModel,
        branch: str,
        tokens: int,
    ) -> None:
        super().__init__(target, images.parts, verifier)
        self.compressor, self.branch, self.tokens = images.compressor, branch, tokens
        self.kept: dict[int, Entries | None] = {}  # by prompt, whose rows share them
        self.chosen: Counter[str] = Counter()
        self._readers: dict[int, set[int]] = {}  # slots of the rows of a prompt
        self._rows: dict[int, Row] = {}  # by slot

    def leave(self, rows: Sequence[Row]) -> None:
        """Forget them, and entries that no other row reads."""
        super().leave(rows)
        for row in rows:
            readers = self._readers.get(row.prompt_index, set())
            readers.discard(row.slot)
            if not readers:
                self.kept.pop(row.prompt_index, None)
                self._readers.pop(row.prompt_index, None)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row], trees: Sequence[TokenTree]) -> list[Tensor]:
        """As LongSpec's; the first time, images are made small."""
        self._rows = {row.slot: row for row in rows}
        return super().forward(rows, trees)

    @property
    def nbytes(self) -> int:
        """Bytes of the drafter's own cache, the same for every length of text."""
        return super().nbytes + sum(x.nbytes for x in self.kept.values() if x is not None)

    def _far_reads(self, slots: list[int]) -> FarReads:
        """Committed text, and entries in place of images."""
        layer, store = self.block.sizes.kv_layer, self.holder.store
        far, before = FarReads(len(slots)), [0] * len(slots)
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            keys, values = level.k[layer], level.v[layer]
            number = len(far.levels)
            if keys is not None and values is not None:
                far.levels.append((keys, values))
            sharing: dict[tuple[int, int, int], list[int]] = {}
            for b, i in enumerate(slots):
                place = int(row_map[i])
                held = int(level.length[place])
                for piece in _pieces(self._rows[i].content, before[b], before[b] + held):
                    sharing.setdefault((place, *piece), []).append(b)
                before[b] += held
            for (place, start, end), members in sharing.items():
                if number < len(far.levels):
                    far.add(number, place, start, end, members)
        for b, i in enumerate(slots):
            entries = self._entries(self._rows[i])
            if entries is not None:
                far.levels.append((entries.k, entries.v))
                number, count = len(far.levels) - 1, entries.k.shape[2]
                weights = entries.log_weight[0].expand(self.block.sizes.num_kv_heads, count)
                far.add(number, 0, 0, count, [b], weights)
        return far

    def _entries(self, row: Row) -> Entries | None:
        """What stands for the images of a row's prompt."""
        self._readers.setdefault(row.prompt_index, set()).add(row.slot)
        if row.prompt_index not in self.kept:
            self.kept[row.prompt_index] = self._made(row)
        return self.kept[row.prompt_index]

    def _made(self, row: Row) -> Entries | None:
        content = row.content
        if content is None or not content.spans:
            return None
        # The question: what the prompt holds behind its last image.
        _, asked = self._cached(row, content.spans[-1].end, row.num_prompt_tokens - 1)
        made = [self._small(row, span, content.positions is None, asked) for span in content.spans]
        return Entries(
            torch.cat([x.k for x in made], 2),
            torch.cat([x.v for x in made], 2),
            torch.cat([x.log_weight for x in made], 1),
        )

    def _small(self, row: Row, span: Span, is_line: bool, asked: Tensor) -> Entries:
        """Entries of one image, by the branch that the question asks for."""
        k, v = (x[None] for x in self._cached(row, span.start, span.end))
        positions = torch.arange(span.start, span.end)[None] if is_line else None
        image = Image(k, v, positions)
        branch = self.branch
        if branch == GATE:
            (branch,) = self.compressor.choose(mean_value(asked[None]), image)
        if BRANCHES[branch].is_trained:
            image = replace(image, embedded=span.read()[None].to(k.device))
        self.chosen[branch] += 1
        made: Entries = self.compressor(branch, image, self.tokens, self.rotary)
        return Entries(made.k.to(k), made.v.to(v), made.log_weight)

    def _cached(self, row: Row, start: int, end: int) -> tuple[Tensor, Tensor]:
        """The target's committed k, v `[Hkv, n, D]` of tokens `start .. end`, wherever they lie."""
        store, sizes, before = self.holder.store, self.block.sizes, 0
        layer, none = sizes.kv_layer, self.head.weight.new_zeros(sizes.num_kv_heads, 0, 1)
        parts = [(none.expand(-1, -1, sizes.head_dim), none.expand(-1, -1, sizes.value_dim))]
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            place = int(row_map[row.slot])
            count = int(level.length[place])
            first, last = max(start - before, 0), min(end - before, count)
            keys, values = level.k[layer], level.v[layer]
            if first < last:
                assert keys is not None and values is not None
                parts.append((keys[place, :, first:last], values[place, :, first:last]))
            before += count
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
