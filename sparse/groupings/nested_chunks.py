"""NestedChunks: chunks as large as attention is flat, by bounds on their logits (LeoAM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.groupings.base import Asked, Chosen, Lines, Stretch
from specdec.sparse.groupings.clusters import joined
from specdec.sparse.maths.bound_tree import BoundTree, bounds
from specdec.sparse.maths.groups import filled
from specdec.sparse.scorers.base import packed
from specdec.sparse.scorers.probe_query import spread


@dataclass(frozen=True)
class NestedChunks:
    """The chunks of the greatest bounds, found from large to small (LeoAM, arXiv 2506.20187).

    Chunks of 64, 16 and 8 tokens, of each the least and the greatest key; see `maths.bound_tree`
    for how most of them are never looked at. A head whose bounds are spread evenly over the large
    chunks reads these as they are, one that looks at few things goes down to the small ones: the
    paper's sizes follow the skew of a layer's attention. Neither its sizes nor its rates were
    found; `flat` is ours: the spread (entropy over that of all alike) from which on a head reads
    the chunks of each level but the smallest.
    """

    tree: BoundTree = field(default_factory=BoundTree)
    flat: tuple[float, ...] = (0.98, 0.9)
    estimates = False

    @property
    def key(self) -> str:
        return f"nested chunks {self.tree.sizes}"

    @property
    def needs(self) -> Needs:
        return Needs()

    def ends(self, at: Stretch, known: Sequence[int]) -> list[int]:
        """Each large chunk is a part."""
        large = self.tree.sizes[0]
        return [*known, *range((known[-1] if known else 0) + large, at.length + 1, large)]

    def lines(self, at: Stretch, start: int, end: int) -> Lines:
        """Bounds of the chunks of each level, `[Hkv, P, 2, D]`."""
        return tuple(self.tree.levels(at.tokens(start, end)[0]))

    def choose(self, asked: Asked) -> Chosen:
        """See `Grouping`."""
        levels = [joined(x) for x in zip(*asked.held, strict=True)]
        q = packed(asked.q, len(levels[0])).to(levels[0])
        tokens = asked.text.length
        wanted = min(tokens, asked.count + asked.first + asked.last)
        chosen = [self._best(x, [y[h] for y in levels], wanted, asked) for h, x in enumerate(q)]
        every = torch.stack(chosen)
        return Chosen(filled(every, tokens, asked.count, asked.first, asked.last))

    def _best(self, q: Tensor, levels: list[Tensor], wanted: int, asked: Asked) -> Tensor:
        """Tokens `int64[wanted]` of one head's best chunks for its queries `q[M, D]`."""
        size = self.tree.sizes[self.finest(q, levels[0], asked.text.scale)]
        found, _ = self.tree.best(q, levels[: self.tree.sizes.index(size) + 1], -(-wanted // size))
        inside = torch.arange(size, device=found.device)
        return (found[:, None] * size + inside).flatten()[:wanted]

    def finest(self, q: Tensor, large: Tensor, scale: float) -> int:
        """Down to which level one head goes for queries `q[M, D]`, by its large chunks
        `[P, 2, D]`."""
        even = float(spread(bounds(q, large) * scale))
        return next((i for i, flat in enumerate(self.flat) if even >= flat), len(self.flat))
