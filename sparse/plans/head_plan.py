"""HeadPlan: which KV heads look far, and which only at first and last tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.model.target import Target


@dataclass(frozen=True)
class HeadPlan:
    """Retrieval heads read all that a selection covers, the others what is forced: a `HeadBudget`.

    far: for each layer, whether each KV head is a retrieval head; () for a sliding-window layer.
    """

    far: tuple[tuple[bool, ...], ...]
    is_bounded = False

    def counts(self, score: Tensor, count: int, layer: int) -> Tensor:
        """All pages, or as many as are forced, which have the score inf: `int64[Hkv]`."""
        forced = (score == torch.inf).sum(dim=-1)
        is_far = torch.tensor(self.far[layer], device=score.device)
        return torch.where(is_far, score.shape[1], forced)

    def check(self, target: Target) -> None:
        """Raise InvalidArgument unless it has a word for every KV head of the model."""
        kinds, heads = target.layer_types[: target.num_layers], target.kv_shape.kv_heads
        fits = len(self.far) == len(kinds) and all(
            len(mine) == heads or (not mine and kind == "sliding_attention")
            for mine, kind in zip(self.far, kinds, strict=True)
        )
        if not fits:
            raise InvalidArgument(
                f"a head plan of {len(self.far)} layers does not fit this model of {len(kinds)} "
                f"layers with {heads} KV heads"
            )
