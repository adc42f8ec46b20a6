"""KeyRotation: a model's rotation of keys by position (RoPE), and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from specdec.errors import UnsupportedModel
from specdec.kernels.precision import wide
from specdec.model.target import Target

_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value")  # by which an attention is known

Apply = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class KeyRotation:
    """What a layer's attention does to its keys by their positions, by the model's own modules.

    embedding: gives cosines and sines; apply: turns queries and keys by them; kinds: those of the
    layers, where the model turns them differently. Turning back turns by the negative angle and
    divides out the scale that some kinds have (YaRN's), in float32 at least. channels: the first
    ones, which alone are handed to `apply`, where attention itself says how many. It is exact for
    any angles, so a wrong guess at positions or frequencies costs quality of a codec, never a key.
    """

    embedding: nn.Module
    apply: Apply
    kinds: tuple[str, ...] | None
    channels: int | None = None

    @classmethod
    def of(cls, target: Target, view: str) -> KeyRotation | None:
        """That of a model, or None for one that turns nothing (learned positions).

        Raises UnsupportedModel, for the `view` that asks, where it is not found.
        """
        base = target.decoder
        named = {name.rsplit(".", 1)[-1]: module for name, module in base.named_modules()}
        embedding = named.get("rotary_emb")
        attentions = [m for m in base.modules() if any(hasattr(m, name) for name in _PROJECTIONS)]
        if embedding is None and getattr(base, "wpe", None) is not None:
            return None
        module = sys.modules[type(attentions[0]).__module__] if attentions else None
        apply: Any = getattr(module, "apply_rotary_pos_emb", None)
        if embedding is None or apply is None:
            raise UnsupportedModel(
                f"view {view!r} goes by how keys are rotated, and how "
                f"{type(target.model).__name__} does it was not found: give another view"
            )
        by_layer = "layer_type" in signature(embedding.forward).parameters
        kinds = tuple(target.layer_types) if by_layer else None
        return cls(embedding, apply, kinds, getattr(attentions[0], "rotary_ndims", None))

    def turn(self, k: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Keys `[Hkv, n, D]` of a layer as attention caches them, from those before rotation.

        positions: `int64[n]`, or `[3, n]` in time, height and width.
        """
        cos, sin = self._angles(k, positions, layer)
        return self._applied(k, cos, sin)

    def turn_back(self, k: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Keys `[Hkv, n, D]` before rotation, from those that are cached: the inverse of `turn`."""
        cos, sin = self._angles(k, positions, layer)
        size = cos * cos + sin * sin  # 1, or the square of YaRN's scale
        return self._applied(k, cos / size, -sin / size)

    def _angles(self, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        kind = () if self.kinds is None else (self.kinds[layer],)
        wider = wide(k[None])
        at = positions[None] if positions.dim() == 1 else positions[:, None]
        cos, sin = self.embedding(wider, at.to(k.device), *kind)
        return cos, sin

    def _applied(self, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        wider = k[None].to(cos)
        count = self.channels or k.shape[-1]
        turned, rest = wider.split([count, k.shape[-1] - count], -1)
        out = self.apply(turned[:, :1], turned, cos, sin)[1]  # it wants queries, too
        return torch.cat([out, rest], -1)[0].to(k)
