"""Side: how one side of a draft's copy, its keys or its values, is kept in less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Parts = tuple[Tensor, ...]  # what blocks are kept as: [any, P, ...], blocks along the second axis


@dataclass(frozen=True, eq=False)
class Place:
    """Which numbers are meant: of `layers`, whose heads lie behind each other, at `positions`.

    positions: `int64[P, S]` of the blocks' tokens in the text. queries: the last ones of the prompt
    in these layers, `[H, n, D]` with the heads of all layers, if they were kept. which: the layer
    that is wanted back, by its place among `layers`, each of which has `heads` KV heads.
    """

    layers: tuple[int, ...]
    heads: int
    positions: Tensor
    queries: Tensor | None = None
    which: int = 0


class Side(Protocol):
    """Encodes numbers `x[Hkv, P, S, D]`, P blocks of S tokens, and decodes them.

    A block's code depends on the block and on what was learned alone, so it is the same whenever
    the block is encoded. With several layers, Hkv counts the heads of all of them; decoding gives
    those of the layer `at.which`.
    """

    def learn(self, x: Tensor, at: Place) -> Any:
        """What is taken from the text that is there first, and holds for all that comes."""

    def encode(self, x: Tensor, at: Place, learned: Any) -> Parts: ...

    def decode(self, parts: Parts, at: Place, learned: Any) -> Tensor:
        """About what was encoded: `[Hkv, P, S, D]` of one layer."""
