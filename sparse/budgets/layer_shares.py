"""LayerShares: a table of how much each layer reads, made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specdec.errors import InvalidArgument


@dataclass(frozen=True)
class LayerShares:
    """Layers read in proportion to `shares`, one for each layer of the model."""

    shares: tuple[float, ...]
    looks = False

    def __post_init__(self) -> None:
        if not self.shares or min(self.shares) <= 0:
            raise InvalidArgument(f"layer shares {self.shares} are not all above 0")

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """In proportion, rounded down."""
        if max(layers, default=0) >= len(self.shares):
            raise InvalidArgument(
                f"{len(self.shares)} layer shares, and the model has a layer {max(layers)}"
            )
        mine = [self.shares[layer] for layer in layers]
        return [int(mean * len(mine) * share / sum(mine)) for share in mine]
