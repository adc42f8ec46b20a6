"""query_turns: how alike neighbouring queries of a text are (LouisKV's threshold)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.attention_probe import AttentionProbe, SeenLayer, every
from specdec.sparse.calibrations.calibration import Numbers
from specdec.sparse.triggers.query_turn import turn_threshold


@torch.inference_mode()
def query_turns(target: Target, text: Sequence[int], length: int = 2048) -> list[Numbers | None]:
    """Each layer's `turn`: the cosine that a fifth of its queries stay below, with the one before.

    LouisKV (arXiv 2510.11292) has one threshold for all layers of a model, tuned by hand.
    """
    queries: dict[int, list[torch.Tensor]] = {}

    def take(seen: SeenLayer) -> None:
        queries.setdefault(seen.layer, []).append(seen.q.flatten(0, 1).clone())

    tokens = list(text)[: min(length, target.max_positions)]
    store = target.new_store(1, len(tokens))
    target.prefill(store, FullView(), 0, tokens, [AttentionProbe(every(1), take)])
    return [
        {"turn": [turn_threshold(torch.cat(queries[n], dim=1))]} if n in queries else None
        for n in range(target.num_layers)
    ]
