"""Text: the committed text of one sequence in one layer, as those see it who judge its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from specdec.cache.cached_tokens import CachedTokens
from specdec.cache.store import KVStore
from specdec.forward.prompt_queries import PromptQueries, Queries
from specdec.sparse.maths.window_scores import window_scores


@dataclass(frozen=True, eq=False)
class Text:
    """What of a text may be asked for; nothing is read before it is.

    covered: how many tokens of each level it has, S in all. scale, softcap: the layer's. known:
    its tokens, where the store's owner knows them. accepted: queries `[H, m, D]` of what the last
    verification has added, if they were kept.
    """

    store: KVStore
    sequence: int
    layer: int
    covered: tuple[int, ...]
    device: torch.device
    scale: float
    softcap: float | None = None
    known: CachedTokens = field(default_factory=CachedTokens)
    accepted: Tensor | None = None

    @property
    def length(self) -> int:
        """S."""
        return sum(self.covered)

    @cached_property
    def tokens(self) -> list[int]:
        """The ids of its tokens, as many as are known."""
        return self.known.ids[: self.length]

    @cached_property
    def images(self) -> Tensor:
        """`bool[S]`: which of its tokens are read as embeddings, such as those of images."""
        made = torch.zeros(self.length, dtype=torch.bool, device=self.device)
        for span in () if self.known.content is None else self.known.content.spans:
            made[span.start : span.end] = True
        return made

    def positions_of(self, places: Tensor | None) -> Tensor:
        """By what the model rotates the tokens at some places, or all: `int64[n]` or `[D, n]`."""
        at = torch.arange(self.length, device=self.device) if places is None else places
        content = self.known.content
        if content is None or content.positions is None:
            return at
        inside = at.clamp(max=len(content.ids) - 1)
        known = content.positions.to(at.device)[:, inside]
        found = torch.where(at < len(content.ids), known, at + content.offset)
        return found[0] if len(found) == 1 else found

    @cached_property
    def k(self) -> Tensor:
        """Keys `[Hkv, S, D]`, on the device; a view where one level holds them all."""
        return held(self.store, self.sequence, self.layer, self.covered, self.device)[0]

    @cached_property
    def v(self) -> Tensor:
        """Values `[Hkv, S, Dv]`, likewise."""
        return held(self.store, self.sequence, self.layer, self.covered, self.device)[1]

    def values(self, tokens: Tensor) -> Tensor:
        """Values `[Hkv, n, Dv]` of some tokens of each head, `int64[Hkv, n]`; any for -1."""
        out, offset = None, 0
        for level, rows, count in zip(
            self.store.levels, self.store.row_maps, self.covered, strict=False
        ):
            values = level.v[self.layer]
            if count and values is not None:
                local = (tokens - offset).clamp(0, count - 1).to(values.device)
                heads = torch.arange(len(tokens), device=values.device)[:, None]
                part = values[int(rows[self.sequence])][heads, local].to(self.device)
                here = (tokens >= offset)[..., None]
                out = part if out is None else torch.where(here, part, out)
                offset += count
        assert out is not None
        return out

    @property
    def read_bytes(self) -> int:
        """Bytes of the keys and values that somebody has asked for."""
        return sum(vars(self)[name].nbytes for name in ("k", "v") if name in vars(self))

    @property
    def window(self) -> Queries | None:
        """The last queries of the prompt, if they were kept."""
        return PromptQueries.of(self.store).window[self.sequence].get(self.layer)

    @property
    def probes(self) -> Queries | None:
        """Queries from all over the prompt, if they were kept."""
        return PromptQueries.of(self.store).probes[self.sequence].get(self.layer)

    def attention(self, queries: Queries) -> Tensor:
        """Probabilities `[Hkv, G, n, S]` of some queries over the keys that each of them sees."""
        q = queries.q.to(self.device).unflatten(0, (self.k.shape[0], -1))
        return window_scores(q, self.k, self.scale, queries.at, self.softcap)


def lengths(store: KVStore, sequence: int) -> list[int]:
    """Committed tokens of a sequence in each level."""
    pairs = zip(store.levels, store.row_maps, strict=True)
    return [int(level.length[rows[sequence]]) for level, rows in pairs]


def held(
    store: KVStore, sequence: int, layer: int, counts: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Keys and values `[Hkv, S, D]` of the first `counts` tokens of each level of a sequence."""
    parts = []
    for level, rows, count in zip(store.levels, store.row_maps, counts, strict=False):
        keys, values = level.k[layer], level.v[layer]
        if count:
            assert keys is not None and values is not None
            row = int(rows[sequence])
            parts.append([level.bring(x, layer, row, 0, count, device) for x in (keys, values)])
    if len(parts) == 1:
        return parts[0][0], parts[0][1]
    k, v = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
    return k, v
