"""Anchors: the layers whose choice of tokens serves the layers above them best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from specdec.bench.views.attention_mass import walk_along
from specdec.errors import InvalidArgument
from specdec.forward.plan import Needs
from specdec.model.target import Target
from specdec.sparse.methods.tidal import ThirdsOfLayers

DENSE = (0, 1)  # the first layers attend to so much that nothing stands for it


def find_anchors(
    target: Target,
    tokens: Sequence[int],
    count: int,
    budget: int = 512,
    depth: int = 8,
    rounds: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The best `count` anchors for the view `tidal` at a budget, measured on a text.

    Returns them and the recall they keep, the same of the default anchors, and the matrix: its
    entry [a, l] is the share of layer l's attention on the tokens that layer a chooses.
    Raises InvalidArgument if the model has not so many layers to choose from.
    """
    full = [i for i, kind in enumerate(target.layer_types) if kind != "sliding_attention"]
    layers = [i for i in full if i not in DENSE]
    if not 1 <= count <= len(layers):
        raise InvalidArgument(
            f"--find-anchors {count}: this model has {len(layers)} layers that can be anchors "
            f"(full attention, above layers {DENSE}): give 1 to {len(layers)}"
        )
    walk = walk_along(target, tokens, depth, rounds, Needs())
    total = torch.zeros(len(layers), len(layers), dtype=torch.float64)
    for done in range(rounds):
        walk.verify()
        total += recall_matrix([walk.mass(layer) for layer in layers], walk.committed, budget)
        walk.advance()
        progress(done + 1, rounds)
    matrix = total / rounds
    places = best_anchors(matrix, count)
    default = [layers.index(a) for a in ThirdsOfLayers().of(target.layer_types) if a in layers]
    return {
        "anchors": [layers[place] for place in places],
        "mean_recall": mean_recall(matrix, places),
        "default_anchors": [layers[place] for place in default],
        "default_mean_recall": mean_recall(matrix, default) if default[:1] == [0] else None,
        "budget": budget,
        "layers": layers,
        "recall": matrix.tolist(),
    }


def recall_matrix(masses: Sequence[Tensor], committed: int, budget: int) -> Tensor:
    """Entry [a, l]: the mass in layer l of the tokens that layer a chooses, `float64[L, L]`.

    masses: each layer's attention `[Hkv, G, N, S + N]`, of which the first S = `committed` keys are
    to choose from, per KV head, by the query head that wants them most. The rest is always read.
    """
    group = torch.stack([mass.mean(dim=1) for mass in masses])  # [L, Hkv, N, S + N]
    always = group[..., committed:].sum(dim=-1)
    rows = []
    for mass in masses:
        score = mass[..., :committed].amax(dim=1)
        best = score.topk(min(budget, committed), dim=-1).indices
        held = group.gather(-1, best.expand(len(masses), -1, -1, -1)).sum(dim=-1) + always
        rows.append(held.mean(dim=(1, 2)))
    return torch.stack(rows).double().cpu()


def best_anchors(recall: Tensor, count: int) -> list[int]:
    """Places 0 = a_1 < ... < a_count with the largest total recall, by dynamic programming.

    recall: `[L, L]` as `recall_matrix` gives it. The first place is always an anchor, since layers
    below the first one would be dense; an anchor's own layer reads everything and counts 1.
    """
    size = len(recall)
    # served[a][end]: total of the layers a .. end - 1 when a is their anchor
    served = [
        [1.0 + float(recall[a, a + 1 : end].sum()) for end in range(size + 1)] for a in range(size)
    ]
    # best[a]: the total of layers from a on, and the anchors, when a is an anchor
    best: list[tuple[float, list[int]] | None] = [(served[a][size], [a]) for a in range(size)]
    for _ in range(count - 1):
        longer: list[tuple[float, list[int]] | None] = []
        for a in range(size):
            options = [
                (served[a][b] + after[0], [a, *after[1]])
                for b in range(a + 1, size)
                if (after := best[b]) is not None
            ]
            longer.append(max(options, default=None))
        best = longer
    assert best[0] is not None
    return best[0][1]


def mean_recall(recall: Tensor, anchors: Sequence[int]) -> float:
    """Recall of all layers under `anchors` (places, the first one 0); anchors count 1."""
    kept = [
        1.0 if i in anchors else float(recall[max(a for a in anchors if a < i), i])
        for i in range(len(recall))
    ]
    return sum(kept) / len(kept)
