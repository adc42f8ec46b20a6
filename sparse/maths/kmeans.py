"""kmeans: vectors in clusters, and the means of those."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.sparse.maths.merging import scatter_mean


def kmeans(x: Tensor, clusters: int, loops: int, spherical: bool = False) -> tuple[Tensor, Tensor]:
    """Cluster of each row of `x[H, n, D]`, `int64[H, n]`, and the means `[H, clusters, D]`.

    Lloyd's algorithm, `loops` times, from evenly spaced rows, so the same rows have the same
    clusters. A row goes to the nearest mean, spherical: to that of the greatest cosine. The means
    are those of the clusters that are returned; one that has lost all its rows stays where it was.
    """
    heads, n, _ = x.shape
    clusters = min(clusters, n)
    mean = x[:, torch.arange(clusters, device=x.device) * n // clusters]
    weight = x.new_ones(heads, n)
    nearest = torch.zeros(heads, n, dtype=torch.int64, device=x.device)
    for _ in range(loops):
        if spherical:
            near = x @ torch.nn.functional.normalize(mean, dim=-1).mT
        else:
            near = x @ mean.mT - (mean * mean).sum(-1)[:, None] / 2
        nearest = near.argmax(-1)
        fresh, count = scatter_mean(x, nearest, clusters, weight)
        mean = torch.where(count[..., None] > 0, fresh, mean)
    return nearest, mean
