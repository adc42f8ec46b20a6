"""EntropyStages: layers after each fall of their queries' entropy keep less (UNComp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EntropyStages:
    """Layers keep by `entropy_stages`; `entropies` has a number for each layer of the model."""

    entropies: tuple[float, ...]
    least: int
    drop: float = 1.0
    looks = False

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`."""
        mine = [self.entropies[n] for n in layers]
        return entropy_stages(mine, mean, self.least, self.drop)


def stages(entropies: Sequence[float], drop: float = 1.0) -> list[int]:
    """The stage of each layer: a new one begins where the entropy has fallen by more than `drop`
    from one layer to the next (UNComp, arXiv 2410.03090)."""
    out = [0]
    for before, now in zip(entropies, entropies[1:], strict=False):
        out.append(out[-1] + (before - now > drop))
    return out


def entropy_stages(
    entropies: Sequence[float], mean: int, least: int, drop: float = 1.0
) -> list[int]:
    """Tokens of each layer: least + allowance * (stages that are left), `mean` on average at most.

    In the paper this is how many hidden states go on from stage to stage of the prompt's prefill,
    which changes what the model says; here it is how much of the cache a draft reads, nothing else.
    """
    number = stages(entropies, drop)
    left = [number[-1] - n + 1 for n in number]
    least = min(least, mean)
    allowance = (mean - least) * len(left) / sum(left)
    return [least + int(allowance * n) for n in left]
