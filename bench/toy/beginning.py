"""Where a tower begins: patches as their principal components, heads that look at neighbours.

A tower with random weights needs millions of pictures to find that neighbours matter. Convolutional
and structured beginnings of attention are well known to spare that (Zheng et al. 2024, "Structured
Initialization for Attention in Vision Transformers"); here each head begins with a look at the
patch so many places further on, by rotating Fourier codes of the places.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

OFFSETS = (0, 1, 2, 3, 4, -1)  # places in reading order; further heads begin at random
_SHARP = 1.5  # of a head's look, as a factor of queries and keys each


@torch.no_grad()
def begin(tower: Any, pixels: Tensor) -> None:
    """Set the weights of a CLIP tower, changed in place. pixels: some pictures, `[B, 3, S, S]`."""
    embeddings = tower.embeddings
    width, patch = embeddings.embed_dim, embeddings.patch_size
    places = embeddings.num_patches
    waves = torch.randperm(places // 2 - 1)[: width // 8] + 1  # two channels each
    codes = 2 * len(waves)
    angle = torch.arange(places)[:, None] * waves * (2 * math.pi / places)
    table = embeddings.position_embedding.weight
    table[1:, :codes] = torch.cat([angle.cos(), angle.sin()], -1) * math.sqrt(2)
    table[0, :codes] = 0
    patches = torch.nn.functional.unfold(pixels, patch, stride=patch).mT.flatten(0, 1)
    weight, mean = _whitened(patches, width - codes)
    embeddings.patch_embedding.weight[:codes] = 0
    embeddings.patch_embedding.weight[codes:] = weight.view(-1, 3, patch, patch)
    table[1:, codes:] = -mean
    for layer in tower.encoder.layers:
        _look(layer.self_attn, waves, 2 * math.pi / places)


def _whitened(patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`[count, pixels]`: components of unit variance, small ones damped; what the mean gives."""
    x = patches.double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T.cov() + 1e-6 * torch.eye(x.shape[1]))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    weight = (vectors / (values + 0.02 * values.mean()).sqrt()).T
    return weight.float(), (weight @ mean).float()


def _look(attention: Any, waves: Tensor, unit: float) -> None:
    """Heads look at the patch some places further on: queries are codes turned by so much."""
    size, count = attention.head_dim, len(waves)
    for head, offset in zip(range(attention.num_heads), OFFSETS, strict=False):
        chosen = torch.randperm(count)[: size // 2]
        rows = torch.arange(len(chosen)) + head * size
        cos, sin = (waves[chosen] * unit * offset).cos(), (waves[chosen] * unit * offset).sin()
        for linear in (attention.q_proj, attention.k_proj):
            linear.weight[head * size : (head + 1) * size] *= 0.1
            linear.bias[head * size : (head + 1) * size] = 0
        query, key = attention.q_proj.weight, attention.k_proj.weight
        query[rows, chosen], query[rows, chosen + count] = _SHARP * cos, -_SHARP * sin
        query[rows + len(chosen), chosen] = _SHARP * sin
        query[rows + len(chosen), chosen + count] = _SHARP * cos
        key[rows, chosen] = _SHARP
        key[rows + len(chosen), chosen + count] = _SHARP
