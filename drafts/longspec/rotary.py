"""Rotary: position embeddings for a drafter, by the convention of the target it reads from."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor

from specdec.errors import UnsupportedModel
from specdec.model.target import Target

# Kinds whose angles are the same in texts of every length, by transformers' names.
_FIXED = frozenset(("default", "linear", "llama3", "proportional", "yarn"))
_BASE = 10_000.0  # of our own embeddings, for a target that has none


class Rotary:
    """Turns queries and keys as one layer of a target turns its own.

    The target's cached keys are turned already, so a query that reads them must be turned by the
    target's own function: half-split or interleaved, all of the head or a part of it, scaled or
    not. Raises UnsupportedModel for a function whose arguments are not the usual ones.
    """

    def __init__(self, target: Target, layer: int) -> None:
        body = target.decoder
        self._embed: Any = getattr(body, "rotary_emb", None)
        self._kind: dict[str, str] = {}
        self._apply: Any = None
        self._pairs = False
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        self._share = _turned_share(target, layer)
        if self._embed is None:
            return
        if "layer_type" in inspect.signature(self._embed.forward).parameters:
            self._kind = {"layer_type": target.layer_types[layer]}
        module = sys.modules[type(body).__module__]
        self._apply = getattr(module, "apply_rotary_pos_emb", None)
        names = [] if self._apply is None else list(inspect.signature(self._apply).parameters)
        self._pairs = names[:4] == ["q", "k", "cos", "sin"]
        if not self._pairs and names[1:3] != ["cos", "sin"]:
            raise UnsupportedModel(
                f"longspec does not know how {type(target.model).__name__} turns its queries: "
                "apply_rotary_pos_emb(q, k, cos, sin) was not found; use another drafter"
            )

    def cross(self, q: Tensor, positions: Tensor) -> Tensor:
        """`q[B, H, n, D]` at `positions[B, n]` as the target would turn it for its cached keys."""
        return q if self._embed is None else self._turn(q, positions)

    def own(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys `x[B, H, n, D]` of a drafter's own attention."""
        return self._plain(x, positions) if self._embed is None else self._turn(x, positions)

    @property
    def has_angles(self) -> bool:
        """Whether there are angles of the target's that its heads are turned by."""
        return self._embed is not None

    @property
    def are_fixed(self) -> bool:
        """Whether a position's angles are known to be the same in texts of every length."""
        kinds = getattr(self._embed, "rope_type", None)
        each = kinds.values() if isinstance(kinds, dict) else [kinds]
        return all(kind in _FIXED for kind in each)

    def angles(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The target's cos and sin of `positions[B, n]`, in x's dtype.

        Those of the last positions are kept, since a draft token asks for them three times.
        """
        last = self._last
        if last is not None and last[0] is positions and last[1].dtype == x.dtype:
            return last[1:]
        with torch.no_grad():
            cos, sin = self._embed(x, positions, **self._kind)
        self._last = positions, cos, sin
        return cos, sin

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self.angles(x, positions)
        # Where only a part of the head is turned, many models cut it out before they call.
        width = int(x.shape[-1] * self._share)
        part, rest = x[..., :width], x[..., width:]
        apply = self._apply
        part = apply(part, part, cos, sin)[0] if self._pairs else apply(part, cos, sin)
        return torch.cat((part, rest), -1) if rest.shape[-1] else part

    @staticmethod
    def _plain(x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        rates = _BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angles = positions[:, None, :, None] * rates
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


def _turned_share(target: Target, layer: int) -> float:
    """The part of each head that positions turn, as the config says it."""
    config = target.model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    parameters = parameters.get(target.layer_types[layer], parameters)
    share = parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1.0))
    return float(share or 1.0)
