"""LabelChannels: a few channels of every key stand for all (Double Sparsity, arXiv 2408.07092)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.index_logits import index_logits
from specdec.sparse.channel_order import ChannelOrder
from specdec.sparse.scorer import Memo


@dataclass(frozen=True)
class LabelChannels:
    """Keeps `channels` channels of each cached key, the same ones for all tokens of a KV head.

    They are the first of `order`, which was calibrated on some text. Without one they are those of
    the text at hand with the largest mean |q| mean |k|: over the last queries of the prompt and the
    keys as they are cached, after q/k norm and RoPE.
    """

    channels: int = 16
    order: ChannelOrder | None = None
    page_size: int = 1
    name: str = "label-channels"

    @property
    def per_logit(self) -> int:
        return self.page_size

    @property
    def key(self) -> str:
        return f"{self.name}-{self.channels}" + ("" if self.order is None else "-calibrated")

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """The labels, `[Hkv, P, channels]`."""
        if memo.channels is None:
            memo.channels = self._channels(k, memo)
        return self._labels(k[:, :, 0], memo)

    def question(self, q: Tensor, memo: Memo) -> tuple[Tensor, bool]:
        return self._labels(q, memo), False

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return index_logits(self._labels(q, memo), pages, scale=scale)

    def _channels(self, k: Tensor, memo: Memo) -> Tensor:
        order = None if self.order is None else self.order.layers[memo.layer]
        if order is None:
            weight = k.abs().mean(dim=(1, 2))
            if memo.queries is not None:
                weight = weight * memo.queries.to(k).abs().mean(dim=1)
            order = weight.argsort(dim=-1, descending=True)
        return order[:, : self.channels].to(k.device)

    def _labels(self, x: Tensor, memo: Memo) -> Tensor:
        assert memo.channels is not None
        return torch.gather(x, 2, memo.channels[:, None].expand(-1, x.shape[1], -1))
