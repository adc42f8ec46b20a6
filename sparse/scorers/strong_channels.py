"""StrongChannels: keys by the channels where the query is large (SparQ, SparF of InstInfer)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.sparse.scorers.base import Memo, PageScorer


@dataclass(frozen=True)
class StrongChannels(PageScorer):
    """Logits over the `channels` largest |q_c| of each query, at a temperature that makes up.

        i = the r channels of the largest |q_c|;  x_t = q_i . K[t, i] / sqrt(d |q_i|_1 / |q|_1)

    softmax(x) estimates the attention (SparQ, arXiv 2312.04985, algorithm 1; InstInfer, arXiv
    2409.04992, runs it in flash storage as SparF). d is the head size, so that 1 / sqrt(d) is the
    model's scale, which is what is used. Keeps the keys once more, channel by channel, so that only
    the r channels' lines are read: both papers do.
    """

    channels: int = 16
    page_size: int = 1
    name: str = "strong-channels"

    @property
    def per_logit(self) -> int:
        return 1

    @property
    def key(self) -> str:
        return self.name  # the copy has all channels

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """The keys themselves, `[Hkv, P, D]`."""
        return k[:, :, 0]

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return channel_logits(q, pages.mT, scale, self.channels)


def channel_logits(q: Tensor, lines: Tensor, scale: float, channels: int) -> Tensor:
    """x of `StrongChannels`, `[Hkv, M, S]`, for `q[Hkv, M, D]` and keys as `lines[Hkv, D, S]`."""
    channels = min(channels, q.shape[-1])
    size = q.abs()
    best = size.topk(channels, dim=-1).indices
    share = size.gather(-1, best).sum(-1, keepdim=True) / size.sum(-1, keepdim=True)
    strong = q.gather(-1, best) * scale / share.sqrt()
    per_head = [
        torch.stack([x @ head[at] for x, at in zip(asked, chosen, strict=True)])
        for asked, chosen, head in zip(strong, best, lines, strict=True)
    ]
    return torch.stack(per_head)
