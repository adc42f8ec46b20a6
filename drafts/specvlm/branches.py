"""Branches: an image's cached keys and values as few entries, one function a branch.

SpecVLM (arXiv 2509.11815) has four, of which pruning and pooling have no weights and lose next to
nothing up to twentyfold there. An entry stands for several tokens, and its log-weight says so: else
attention to an image would shrink as the image does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.drafts.longspec.rotary import Rotary
from specdec.errors import UnsupportedModel


@dataclass(frozen=True)
class Image:
    """k, v `[Hkv, n, D]` as the target has cached them, of tokens at `positions`, `int64[n]`.

    positions: None where they are turned in several dimensions.
    """

    k: Tensor
    v: Tensor
    positions: Tensor | None


@dataclass(frozen=True)
class Entries:
    """k, v `[Hkv, e, D]`, which attention reads in place of an image's; log_weight `float32[e]`."""

    k: Tensor
    v: Tensor
    log_weight: Tensor

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.k, self.v, self.log_weight))


Branch = Callable[[Image, int, Rotary], Entries]


def prune(image: Image, tokens: int, rotary: Rotary) -> Entries:
    """One of neighbouring tokens, the middle one, for all of them."""
    sizes = _groups(image.k.shape[1], tokens)
    ends = sizes.cumsum(0)
    chosen = (ends - 1 - (sizes - 1) // 2).to(image.k.device)
    return Entries(image.k[:, chosen], image.v[:, chosen], _log(sizes, image.k))


def pool(image: Image, tokens: int, rotary: Rotary) -> Entries:
    """The mean of neighbouring tokens, whose keys are turned back for it, at their middle."""
    if image.positions is None:
        raise UnsupportedModel(
            "specvlm pools keys along one dimension, and this model turns those of images in "
            "three: give image_branch='prune'"
        )
    sizes = _groups(image.k.shape[1], tokens)
    positions = image.positions.to(image.k.device)
    plain = rotary.cross(image.k[None], -positions[None])[0]
    places = _means(positions[None, :, None].double(), sizes)[0, :, 0].round().long()
    k = rotary.cross(_means(plain, sizes)[None], places[None])[0]
    return Entries(k.to(image.k), _means(image.v, sizes), _log(sizes, image.k))


def text(image: Image, tokens: int, rotary: Rotary) -> Entries:
    """Nothing: a drafter that knows the text alone."""
    return Entries(image.k[:, :0], image.v[:, :0], _log(torch.zeros(0), image.k))


BRANCHES: dict[str, Branch] = {"prune": prune, "pool": pool, "text": text}


def _groups(count: int, tokens: int) -> Tensor:
    """Sizes of at most `tokens` groups of neighbours, as even as can be: `int64[e]`."""
    bounds = torch.linspace(0, count, min(count, tokens) + 1).round().long()
    return bounds.diff()


def _means(x: Tensor, sizes: Tensor) -> Tensor:
    """`x[H, n, D]` averaged over neighbours, `[H, e, D]`."""
    return torch.stack([part.mean(1) for part in x.split(sizes.tolist(), 1)], 1)


def _log(sizes: Tensor, like: Tensor) -> Tensor:
    return sizes.to(like.device, torch.float32).log()
