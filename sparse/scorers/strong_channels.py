"""StrongChannels: keys by the channels where the query is large (SparQ, SparF of InstInfer)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.kernels.selection.index_logits import index_logits
from specdec.sparse.scorers.base import IndexQuery, Memo, PageScorer


@dataclass(frozen=True)
class StrongChannels(PageScorer):
    """Logits over the `channels` largest |q_c| of each query, at a temperature that makes up.

        i = the r channels of the largest |q_c|;  x_t = q_i . K[t, i] / sqrt(d |q_i|_1 / |q|_1)

    softmax(x) estimates the attention (SparQ, arXiv 2312.04985, algorithm 1; InstInfer, arXiv
    2409.04992, runs it in flash storage as SparF). d is the head size, so that 1 / sqrt(d) is the
    model's scale, which is what is used. Keeps the keys once more, as both papers do, but not
    channel by channel: all channels are read, the others multiplied by 0.
    """

    channels: int = 16
    page_size: int = 1
    name: str = "strong-channels"

    @property
    def key(self) -> str:
        return self.name  # the copy has all channels

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """The keys themselves, `[Hkv, P, D]`."""
        return k[:, :, 0]

    def index_query(self, q: Tensor, memo: Memo) -> IndexQuery:
        return IndexQuery(strong(q, self.channels), is_raw=False)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return index_logits(strong(q, self.channels), pages, scale=scale)


def strong(q: Tensor, channels: int) -> Tensor:
    """Queries `q[Hkv, M, D]` with their strongest channels alone, over the root of their share of
    |q|_1."""
    size = q.abs()
    best = size.topk(min(channels, q.shape[-1]), dim=-1)
    share = best.values.sum(-1, keepdim=True) / size.sum(-1, keepdim=True)
    share = share.where(share > 0, 1.0)  # a query of zeros
    return q.new_zeros(q.shape).scatter_(
        -1, best.indices, q.gather(-1, best.indices) / share.sqrt()
    )
