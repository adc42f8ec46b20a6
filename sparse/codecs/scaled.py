"""Scaled: channels brought to sizes that few bits can hold together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place, Side


@dataclass(frozen=True)
class Scaled:
    """x = base(x * s) / s with a scale s of each channel, learned from the first text.

    balanced: s_c = sqrt(max |q_c| / max |x_c|), by the queries as well (MiKV's balancer, arXiv
    2402.18096, for keys): a channel that no query looks at may be coarse. Else s_c = 1 / sqrt(max
    |x_c|) (the channel-separable quantiser of ZipCache, arXiv 2405.14256).
    """

    base: Side
    balanced: bool

    def learn(self, x: Tensor, at: Place) -> tuple[Tensor, Any]:
        """The scales `[Hkv, 1, 1, D]`, and what base learns of the scaled numbers."""
        size = x.abs().amax(dim=(1, 2))
        wanted = torch.ones_like(size)
        if self.balanced and at.queries is not None:  # a saved prompt has none: all count alike
            asked = at.queries.to(x).abs().amax(dim=1)
            wanted = asked.unflatten(0, (len(x), -1)).amax(dim=1)
        scale = (wanted / size.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
        scale = torch.where((size > 0) & (wanted > 0), scale, 1.0)[:, None, None]
        return scale, self.base.learn(x * scale, at)

    def encode(self, x: Tensor, at: Place, learned: tuple[Tensor, Any]) -> Parts:
        scale, below = learned
        return self.base.encode(x * scale, at, below)

    def decode(self, parts: Parts, at: Place, learned: tuple[Tensor, Any]) -> Tensor:
        scale, below = learned
        return self.base.decode(parts, at, below) / scale
