"""AnswerParts: answers about images as the stages of a block read them."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.drafts.longspec.block import LongSpecBlock
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.training.viewer import ImageLesson


class AnswerParts:
    """A lesson's `A` places for each of its `N` texts; see `Parts` of `longspec.training.start`.

    embedded `[N, T, hidden]`: of all tokens; k, v: the target's. entries: what is read besides
    text, keys and values `[N, Hkv, E, D]` and what is added to their scores `[N, E]`; as_text:
    `bool[N]`, texts whose images are read as the target has cached them.
    """

    def __init__(
        self, block: LongSpecBlock, embedded: Tensor, k: Tensor, v: Tensor, rotary: Rotary,
        lesson: ImageLesson, entries: tuple[Tensor, Tensor, Tensor], as_text: Tensor,
    ) -> None:  # fmt: skip
        self.block, self.embedded, self.rotary, self.lesson = block, embedded, rotary, lesson
        self.k, self.v, self.entries, self.as_text = k, v, entries, as_text
        self.hidden, self.queries = lesson.hidden.float(), lesson.queries.float()
        self.columns = torch.arange(lesson.top_ids.shape[1], device=k.device)
        self.at = (lesson.at[:, None] + self.columns).clamp_max(embedded.shape[1] - 1)
        self.places = torch.arange(embedded.shape[1], device=k.device)
        self.ahead = self.at[:, :, None] - self.places

    def inputs(self) -> tuple[Tensor, Tensor]:
        return _taken(self.embedded, self.at), _taken(self.embedded, self.at - 1)

    def near(self) -> Tensor:
        block, x = self.block, _taken(self.embedded, self.at)
        own = block.window_kv(self.embedded, self.rotary, self.places.expand(len(x), -1))
        mask = (self.ahead >= 0) & (self.ahead < block.sizes.window)
        return block.attended(block.self_query(x, self.rotary, self.at), *own, mask[:, None])

    def state(self, lag: int) -> Tensor:
        newest = (self.at - lag).clamp_min(0)
        k, v = _taken(self.k, newest), _taken(self.v, newest)
        return self.block.state(k, v, self.rotary, newest + self.lesson.offset[:, None])

    def far(self, h: Tensor, lag: int) -> Tensor:
        own_k, own_v, weight = self.entries
        begin, end = self.lesson.images[..., :1], self.lesson.images[..., 1:]
        in_image = ((self.places >= begin) & (self.places < end)).any(1)
        read = ~in_image | self.as_text[:, None]
        seen = torch.where((self.ahead >= lag) & read[:, None], 0.0, -torch.inf)
        bias = torch.cat([seen, weight[:, None].expand(-1, len(self.columns), -1)], -1)[:, None]
        x, positions = _taken(self.embedded, self.at), self.at + self.lesson.offset[:, None]
        q = self.block.cross_query(h, x, self.rotary, positions)
        keys, values = torch.cat([self.k, own_k], 2), torch.cat([self.v, own_v], 2)
        return self.block.attended(q, keys, values, bias.to(q.dtype))

    def kept(self, x: Tensor, lag: int) -> Tensor:
        return x[learned(self.lesson, lag)]


def learned(batch: ImageLesson, lag: int) -> Tensor:
    """`bool[N, A]`: places at which a draft can stand so many tokens ahead of the target's KV."""
    columns = torch.arange(batch.top_ids.shape[1], device=batch.count.device)
    return (columns < batch.count[:, None]) & (columns >= lag - 1)


def _taken(x: Tensor, at: Tensor) -> Tensor:
    """`x[N, T, C]` or `x[N, H, T, C]` at places `int64[N, A]` of each text."""
    n = torch.arange(len(x), device=x.device)[:, None]
    return x[n, at] if x.dim() == 3 else x[n, :, at].transpose(1, 2)
