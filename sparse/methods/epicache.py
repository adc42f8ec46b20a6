"""EpiCache (arXiv 2509.17396): the part of a long text that a question's topic looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Whole
from specdec.sparse.methods.calibrated import Calibrated

if TYPE_CHECKING:
    from torch import Tensor

    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class EpiCache(Calibrated):
    """Heads share a layer's budget as in AdaKV; layers share the whole by how their keys change
    where less is read, which is measured once.

    The paper bounds what a prompt's reading keeps in memory and has a cache for each topic; here
    everything is kept, and a topic's cache is made when a question asks for it.
    """

    paper = "2509.17396"
    family = "prefill scorer"
    keeps = "tokens that a question's topic looks at"
    measure = "epicache"

    refresh: str | int = "prompt"
    episodes: int = option(4, "Topics that a text is cut into.", Whole())
    episode_tokens: int = option(
        128, "Tokens of a piece of text that has one topic.", Whole(1, 4096)
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.adaptive_heads import AdaptiveHeads
        from specdec.sparse.budgets.sensitivity import Sensitivity
        from specdec.sparse.importances.episode_probe import EpisodeProbe
        from specdec.sparse.maths.key_rotation import KeyRotation

        similarities = [x["similarity"][0] if x else 1.0 for x in self.measured(target).layers]
        probe = EpisodeProbe(
            _embedder(target),
            KeyRotation.of(target, "epicache"),
            self.episode_tokens,
            self.episodes,
        )
        return self.policy(
            "epicache", target, importance=probe, heads=AdaptiveHeads(),
            layers=Sensitivity(tuple(similarities)), layer_types=tuple(target.layer_types),
        )  # fmt: skip


def _embedder(target: Target) -> Callable[[Sequence[int]], Tensor]:
    """Gives the model's embeddings of tokens."""
    import torch

    table = target.model.get_input_embeddings()
    assert table is not None

    def embed(tokens: Sequence[int]) -> Tensor:
        out: Tensor = table(torch.tensor(tokens, device=target.device))
        return out

    return embed
