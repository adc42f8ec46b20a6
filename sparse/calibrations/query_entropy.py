"""query_entropy: how many directions the queries of a head use on a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.attention_probe import AttentionProbe, SeenLayer, every
from specdec.sparse.calibrations.calibration import Numbers
from specdec.sparse.maths.spectral_entropy import spectral_entropy

STRIDE = 4  # every so manieth query: a covariance of D channels needs no more


@torch.inference_mode()
def query_entropy(target: Target, text: Sequence[int], length: int = 2048) -> list[Numbers | None]:
    """Each query head's `entropy`: truncated, of the covariance of its queries (UNComp, arXiv
    2410.03090, which measures on WikiText-2), as attention takes them."""
    queries: dict[int, list[torch.Tensor]] = {}

    def take(seen: SeenLayer) -> None:
        queries.setdefault(seen.layer, []).append(seen.q.flatten(0, 1).clone())

    tokens = list(text)[: min(length, target.max_positions)]
    store = target.new_store(1, len(tokens))
    target.prefill(store, FullView(), 0, tokens, [AttentionProbe(every(STRIDE), take)])
    return [
        {"entropy": spectral_entropy(torch.cat(queries[n], dim=1)).tolist()}
        if n in queries
        else None
        for n in range(target.num_layers)
    ]
