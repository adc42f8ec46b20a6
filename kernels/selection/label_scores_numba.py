"""label_scores on a CPU; labels in 4 bits run in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.cpu.jit import SERIAL, njit
from specdec.kernels.selection import label_scores
from specdec.kernels.selection.index_dots_numba import best_dots, new_units
from specdec.kernels.selection.page_bounds import group_queries


def update_labels(
    labels: Tensor,
    k: Tensor,
    channels: Tensor,
    since: Tensor,
    length: Tensor,
    *,
    tokens: int,
    scales: Tensor | None = None,
) -> None:
    """See `specdec.kernels.selection.label_scores`."""
    if scales is not None:
        update = label_scores.update_labels.plain
        return update(labels, k, channels, since, length, tokens=tokens, scales=scales)
    _update(labels.numpy(), k.numpy(), channels.numpy(), new_units(since, length, 1, tokens))


def score_labels(
    q: Tensor,
    labels: Tensor,
    channels: Tensor,
    length: Tensor,
    row_map: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """See `specdec.kernels.selection.label_scores`."""
    if scales is not None:
        return label_scores.score_labels.plain(q, labels, channels, length, row_map, scales)
    grouped = group_queries(q, labels.shape[1])
    index = channels[row_map.long(), :, None].long().expand(*grouped.shape[:3], -1)
    return best_dots(grouped.gather(-1, index), labels, length, row_map, 1)


@njit(**SERIAL)
def _update(labels, k, channels, tokens):
    heads, count = channels.shape[1:]
    for row in range(len(tokens)):
        for h in range(heads):
            for key in range(tokens[row, 0], tokens[row, 1]):
                for c in range(count):
                    labels[row, h, key, c] = k[row, h, key, channels[row, h, c]]
