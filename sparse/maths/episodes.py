"""Episodes: a long text in topics, and the pieces that speak for each (EpiCache)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from specdec.sparse.maths.kmeans import kmeans

CLUSTERS, MEDOIDS = 4, 4  # EpiCache's defaults
STARTS, SEED = 10, 42  # of k-means: the released code's
LOOPS = 10  # of k-means: ours, as centres of some tens of pieces stand still by then


@dataclass(frozen=True, eq=False)
class Episodes:
    """centroids: `[E, hidden]`, of each topic. of: `int64[P]`, the topic of each piece of the text.
    medoids: for each topic the pieces that speak for it, nearest to its centroid first."""

    centroids: Tensor
    of: Tensor
    medoids: tuple[tuple[int, ...], ...]

    @classmethod
    def found_in(cls, pieces: Tensor, clusters: int = CLUSTERS, medoids: int = MEDOIDS) -> Episodes:
        """Topics of a text whose pieces are embedded as `[P, hidden]`, of length 1.

        EpiCache (arXiv 2509.17396): k-means over pieces, the best of ten seeded starts; for each
        cluster the pieces whose cosine with the centroid is greatest.
        """
        draw = torch.Generator().manual_seed(SEED)
        tries = [_clustered(pieces, clusters, draw) for _ in range(STARTS)]
        of, mean = min(tries, key=lambda made: float((pieces - made[1][made[0]]).square().sum()))
        centroids = normalize(mean, dim=-1)
        near = pieces @ centroids.mT
        chosen = []
        for e in range(len(centroids)):
            own = (of == e).nonzero()[:, 0]
            ranked = own[near[own, e].sort(descending=True, stable=True).indices]
            chosen.append(tuple(ranked[:medoids].tolist()))
        return cls(centroids, of, tuple(chosen))

    def nearest(self, question: Tensor) -> int:
        """The topic of a question, embedded as `[hidden]`: that of the greatest cosine."""
        return int((self.centroids @ question).argmax())


def _clustered(pieces: Tensor, clusters: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cluster of each piece and the means, from a start that is drawn."""
    order = torch.randperm(len(pieces), generator=draw).to(pieces.device)
    of, mean = kmeans(pieces[order][None], clusters, LOOPS)
    return torch.empty_like(of[0]).scatter_(0, order, of[0]), mean[0]


def embedded(vectors: Tensor) -> Tensor:
    """A piece of text as one vector of length 1: the mean of its tokens' embeddings `[n, hidden]`.

    One of the released code's choices, which needs no other model; its default is a sentence
    encoder.
    """
    return normalize(vectors.float().mean(dim=0), dim=0)
