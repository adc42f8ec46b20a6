"""Image and Entries: an image as the target has cached it, and what stands for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.drafts.longspec.block import Sizes
from specdec.drafts.longspec.rotary import Rotary
from specdec.errors import UnsupportedModel


@dataclass(frozen=True)
class ImageSizes:
    """Shapes of what makes images small; the first three are those of the target's cached KV.

    hidden_size: of embeddings, which learned branches read, too; 0 for those that do not.
    stride: neighbours that become one entry by convolution; queries: of the resampler; gate_size:
    inner width of the gate; tokens: entries of an image at most, where nobody asks for others.
    """

    num_kv_heads: int
    head_dim: int
    value_dim: int
    stride: int = 4
    queries: int = 2
    gate_size: int = 64
    tokens: int = 16
    hidden_size: int = 0

    @classmethod
    def of(cls, block: Sizes, **own: int) -> ImageSizes:
        """For the layer that a block reads."""
        own = {"hidden_size": block.hidden_size, **own}
        return cls(block.num_kv_heads, block.head_dim, block.value_dim, **own)

    @property
    def width(self) -> int:
        """Features of a token: its key and value, all heads side by side."""
        return self.num_kv_heads * (self.head_dim + self.value_dim)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Image:
    """k, v `[B, Hkv, n, D]` as the target has cached them of `B` images of `n` tokens.

    positions: of their tokens, `int64[B, n]`; None where they are turned in several dimensions.
    embedded: `[B, n, hidden]`, what the target's first layer was given for them; None where nobody
    who needs it is asked.
    """

    k: Tensor
    v: Tensor
    positions: Tensor | None
    embedded: Tensor | None = None

    def features(self, rotary: Rotary) -> Tensor:
        """Keys, turned back to no place, and values, side by side: `[B, n, width]`.

        Raises UnsupportedModel where keys are turned in several dimensions.
        """
        k = rotary.cross(self.k, -self.places())
        return torch.cat([x.transpose(1, 2).flatten(2) for x in (k, self.v)], -1)

    def inputs(self, rotary: Rotary, sizes: ImageSizes) -> Tensor:
        """What learned branches read: features and, where the sizes say so, embeddings of unit
        variance, `[B, n, width + hidden_size]`."""
        x = self.features(rotary)
        if not sizes.hidden_size:
            return x
        assert self.embedded is not None
        embedded = self.embedded.to(x)
        return torch.cat([x, torch.nn.functional.layer_norm(embedded, embedded.shape[-1:])], -1)

    def places(self) -> Tensor:
        """Positions of the tokens, `int64[B, n]`, where there are such of one dimension."""
        if self.positions is None:
            raise UnsupportedModel(
                "specvlm can mix keys along one dimension, and this model turns those of images in "
                "three: give image_branch='prune' or 'text'"
            )
        return self.positions.to(self.k.device)

    def made(self, features: Tensor, sizes: Tensor, rotary: Rotary) -> Entries:
        """Entries of `features[B, e, width]`, each in the middle of the places it stands for.

        sizes: how many neighbouring tokens each of them stands for, `int64[e]`.
        """
        heads, dim = self.k.shape[1], self.k.shape[-1]
        k, v = (
            x.unflatten(-1, (heads, -1)).transpose(1, 2)
            for x in features.split([heads * dim, features.shape[-1] - heads * dim], -1)
        )
        middle = means(self.places()[..., None].double(), sizes)[..., 0].round().long()
        return Entries(rotary.cross(k, middle), v, weights(sizes, self.k))


@dataclass(frozen=True)
class Entries:
    """k, v `[B, Hkv, e, D]`, which attention reads in place of images; log_weight `float32[B, e]`.

    An entry stands for several tokens, and its log-weight says so: else attention to an image would
    shrink as the image does.
    """

    k: Tensor
    v: Tensor
    log_weight: Tensor

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.k, self.v, self.log_weight))


def groups(count: int, most: int) -> Tensor:
    """Sizes of at most `most` groups of neighbours, as even as can be: `int64[e]`."""
    bounds = torch.linspace(0, count, min(count, most) + 1).round().long()
    return bounds.diff()


def means(x: Tensor, sizes: Tensor) -> Tensor:
    """`x[B, n, C]` averaged over groups of neighbours, `[B, e, C]`."""
    sizes = sizes.to(x.device)
    of = torch.arange(len(sizes), device=x.device).repeat_interleave(sizes)
    total = x.new_zeros(x.shape[0], len(sizes), x.shape[2]).index_add(1, of, x)
    return total / sizes[:, None].to(x)


def weights(sizes: Tensor, like: Tensor) -> Tensor:
    """Log-weights `float32[B, e]` of entries that stand for so many tokens each."""
    return sizes.to(like.device, torch.float32).log().expand(like.shape[0], -1)
