"""LabelChannels: a few channels of every key stand for all (Double Sparsity, arXiv 2408.07092)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.kernels.cache import codes
from specdec.kernels.selection.index_logits import index_logits
from specdec.kernels.selection.label_scores import score_labels, update_labels
from specdec.sparse.scorers.base import IndexQuery, LevelPageScorer, Memo, Summary
from specdec.sparse.scorers.channel_order import ChannelOrder

BITS = (4, 16)


@dataclass(frozen=True)
class LabelChannels(LevelPageScorer):
    """Keeps `channels` channels of each cached key, the same ones for all tokens of a KV head.

    They are the first of `order`, which was calibrated on some text. Without one they are those of
    the text at hand with the largest mean |q| mean |k|: over the last queries of the prompt and the
    keys as they are cached, after q/k norm and RoPE. bits: 16 keeps labels as keys are, 4 keeps
    codes with a step and a lowest value for each key, as the paper does.
    """

    channels: int = 16
    order: ChannelOrder | None = None
    bits: int = 16
    page_size: int = 1
    name: str = "label-channels"
    learns = True

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InvalidArgument(f"label_bits={self.bits!r}: give 4, or 16 for labels as keys are")

    @property
    def key(self) -> str:
        calibrated = "" if self.order is None else "-calibrated"
        return f"{self.name}-{self.channels}-{self.bits}{calibrated}"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """The labels, `[Hkv, P, channels]`; in 4 bits as bytes, the key's step and least value
        behind its codes."""
        if memo.channels is None:
            memo.channels = self._channels(k, memo)
        labels = self._labels(k[:, :, 0], memo)
        if self.bits == 16:
            return labels
        coded, step, low = codes.encode(labels, self.bits, dim=-1)
        scales = torch.cat([step, low], dim=-1).view(torch.uint8)
        return torch.cat([codes.pack(coded, self.bits), scales], dim=-1)

    def index_query(self, q: Tensor, memo: Memo) -> IndexQuery | None:
        return IndexQuery(self._labels(q, memo), is_raw=False) if self.bits == 16 else None

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        if self.bits != 16:
            assert memo.channels is not None
            coded, scales = pages.tensor_split((memo.channels.shape[1] // 2,), dim=-1)
            step, low = scales.contiguous().view(q.dtype).split(1, dim=-1)
            pages = codes.unpack(coded, self.bits).to(q.dtype) * step + low
        return index_logits(self._labels(q, memo), pages, scale=scale)

    def allocate(self, k: Tensor, pages: int) -> Summary:
        """Labels, the channels of each row, and in 4 bits each key's step and least value."""
        count = min(self.channels, k.shape[-1]) // 2 * 2
        channels = k.new_zeros(*k.shape[:2], count, dtype=torch.int32)
        if self.bits == 16:
            return k.new_empty(*k.shape[:2], pages, count), channels
        labels = k.new_empty(*k.shape[:2], pages, count // 2, dtype=torch.uint8)
        return labels, channels, k.new_empty(*k.shape[:2], pages, 2)

    def init_row(self, summary: Summary, k: Tensor, row: int, memo: Memo) -> None:
        """Choose the row's channels."""
        channels = summary[1][row]
        channels.copy_(self._channels(k[:, :, None], memo)[:, : channels.shape[1]])

    def update(
        self, summary: Summary, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        labels, channels, *scales = summary
        scales_ = scales[0] if scales else None
        update_labels(labels, k, channels, since, length, tokens=pages, scales=scales_)

    def scores(self, q: Tensor, summary: Summary, length: Tensor, row_map: Tensor) -> Tensor:
        """The greatest score over the queries, not a softmax: the kernel's."""
        labels, channels, *scales = summary
        return score_labels(q, labels, channels, length, row_map, *scales)

    def _channels(self, k: Tensor, memo: Memo) -> Tensor:
        order = None if self.order is None else self.order.layers[memo.layer]
        if order is None:
            weight = k.abs().mean(dim=(1, 2))
            if memo.queries is not None:
                weight = weight * memo.queries.to(k).abs().mean(dim=1)
            order = weight.argsort(dim=-1, descending=True)
        kept = min(self.channels, order.shape[1])
        if self.bits != 16:
            kept -= kept % 2  # two codes share a byte
        return order[:, :kept].to(k.device)

    def _labels(self, x: Tensor, memo: Memo) -> Tensor:
        assert memo.channels is not None
        return torch.gather(x, 2, memo.channels[:, None].expand(-1, x.shape[1], -1))
