"""LabelChannels: a few channels of every key stand for all (Double Sparsity, arXiv 2408.07092)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.sparse.scorer import Memo


@dataclass(frozen=True)
class LabelChannels:
    """Keeps `channels` channels of each cached key, the same ones for all tokens of a KV head.

    They are those with the largest mean |q k| over the text at hand: the last queries of the prompt
    and the keys as they are cached, after q/k norm and RoPE. (The paper calibrates offline on other
    text; the prompt itself needs no file that could belong to another model.)
    """

    channels: int = 16
    page_size: int = 1
    name: str = "label-channels"

    @property
    def key(self) -> str:
        return f"{self.name}-{self.channels}"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """The labels, `[Hkv, P, channels]`."""
        if "channels" not in memo:
            weight = k.abs().mean(dim=(1, 2))
            if "queries" in memo:
                weight = weight * memo["queries"].to(k).abs().mean(dim=1)
            count = min(self.channels, weight.shape[-1])
            memo["channels"] = weight.topk(count, dim=-1).indices
        return self._labels(k[:, :, 0], memo)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return self._labels(q, memo) @ pages.to(q).mT * scale

    def _labels(self, x: Tensor, memo: Memo) -> Tensor:
        channels = memo["channels"]
        return torch.gather(x, 2, channels[:, None].expand(-1, x.shape[1], -1))
