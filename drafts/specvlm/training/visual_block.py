"""VisualBlock: a LongSpec block and what makes images small for it, as they are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specdec.drafts.longspec.block import LongSpecBlock
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.compressor import BRANCHES, GATE, Compressor
from specdec.drafts.specvlm.image import Image
from specdec.drafts.specvlm.training.answer_parts import AnswerParts
from specdec.drafts.specvlm.training.viewer import ImageLesson

WHOLE = "whole"  # images as the target has cached them, as the block alone reads them
WAYS = (*BRANCHES, GATE, WHOLE)


@dataclass(frozen=True)
class How:
    """How a batch reads its images: for each text the number of one of WAYS, `int64[N]`.

    noise: `[M, branches]` Gumbel noise for the gate's logits of so many images, and the temperature
    of the relaxed choice; None for the best branch alone, as in inference.
    """

    ways: Tensor
    noise: Tensor | None = None
    temperature: float = 1.0


class VisualBlock(nn.Module):
    """Trains both at once; `tokens`: entries that stand for an image at most."""

    def __init__(self, block: LongSpecBlock, compressor: Compressor, tokens: int) -> None:
        super().__init__()
        self.block, self.compressor, self.tokens = block, compressor, tokens

    def forward(
        self, embedded: Tensor, positions: Tensor, k: Tensor, v: Tensor, rotary: Rotary, lag: int,
        lesson: ImageLesson | None = None, how: How | None = None,
    ) -> Tensor:  # fmt: skip
        """As the block, of texts; of a lesson with images hidden states `[N, A, hidden]` for the
        places that are learned from, with the target's KV `lag` tokens behind."""
        if lesson is None or how is None:
            out: Tensor = self.block(embedded, positions, k, v, rotary, lag)
            return out
        p = self.parts(embedded, k, v, rotary, lesson, how)
        block, (x, before) = self.block, p.inputs()
        h = block.start(x, before) + block.newest(p.state(lag), lag)
        h = h + block.self_o(p.near())
        h = h + block.cross_o(p.far(h, lag))
        return block.finish(h)

    def parts(
        self, embedded: Tensor, k: Tensor, v: Tensor, rotary: Rotary, lesson: ImageLesson, how: How
    ) -> AnswerParts:
        """A lesson with images as the stages of the block read it."""
        k, v = k.to(embedded.dtype), v.to(embedded.dtype)
        entries = self._entries(k, v, rotary, lesson, how)
        whole = how.ways == WAYS.index(WHOLE)
        return AnswerParts(self.block, embedded, k, v, rotary, lesson, entries, whole)

    def _entries(
        self, k: Tensor, v: Tensor, rotary: Rotary, lesson: ImageLesson, how: How
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of all branches for all images of a text, side by side: k, v `[N, Hkv, E, D]`,
        and what is added to their scores, `[N, E]`: -inf for those that it does not read."""
        asked = _questions(v, lesson)
        sizes = lesson.images[..., 1] - lesson.images[..., 0]
        made = []
        for size in sizes[sizes > 0].unique().tolist():
            for is_line in lesson.is_line.unique().tolist():
                mine = (sizes == size) & (lesson.is_line == is_line)[:, None]
                n, i = mine.nonzero(as_tuple=True)
                if not len(n):
                    continue
                places = lesson.images[n, i, :1] + torch.arange(size, device=k.device)
                own_k, own_v = (x[n[:, None], :, places].transpose(1, 2) for x in (k, v))
                embedded = lesson.embeddings[n, i, :size]
                image = Image(own_k, own_v, places if is_line else None, embedded)
                noise = None if how.noise is None else how.noise[n, i]
                chosen = self._chosen(asked[n], image, how.ways[n], noise, how.temperature)
                made.append((n, i, *self._all(image, rotary, chosen)))
        room = max((x[-1].shape[1] for x in made), default=0)
        shape = (*lesson.images.shape[:2], room)
        keys, values = (x.new_zeros(*shape, x.shape[1], x.shape[3]) for x in (k, v))
        weight = k.new_full(shape, -torch.inf)
        for n, i, some_k, some_v, some_weight in made:
            end = some_weight.shape[1]
            keys[n, i, :end] = some_k.transpose(1, 2)
            values[n, i, :end] = some_v.transpose(1, 2)
            weight[n, i, :end] = some_weight
        keys, values = (x.flatten(1, 2).transpose(1, 2) for x in (keys, values))
        return keys, values, weight.flatten(1)

    def _chosen(
        self, asked: Tensor, image: Image, ways: Tensor, noise: Tensor | None, temperature: float
    ) -> Tensor:
        """Log-weights of the branches for each image, `[M, branches]`; 0 for one that is read."""
        count = len(BRANCHES)
        logits = self.compressor.logits(asked, image).float()
        if noise is None:
            by_gate = _only(logits.argmax(-1), count)
        else:
            by_gate = ((logits + noise) / temperature).log_softmax(-1)
        return torch.where((ways == WAYS.index(GATE))[:, None], by_gate, _only(ways, count))

    def _all(self, image: Image, rotary: Rotary, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of all branches `[M, Hkv, E, D]`, and what is added to their scores `[M, E]`."""
        parts = []
        for number, (name, kind) in enumerate(BRANCHES.items()):
            if image.positions is not None or not kind.turns:
                entries = self.compressor(name, image, self.tokens, rotary)
                parts.append((entries, entries.log_weight + chosen[:, number : number + 1]))
        return (
            torch.cat([x.k.to(image.k) for x, _ in parts], 2),
            torch.cat([x.v.to(image.v) for x, _ in parts], 2),
            torch.cat([weight.to(image.k) for _, weight in parts], 1),
        )


def _questions(v: Tensor, lesson: ImageLesson) -> Tensor:
    """Mean values of what stands between the last image and the answer, `[N, Hkv * Dv]`."""
    places = torch.arange(v.shape[2], device=v.device)
    first = lesson.images[..., 1].amax(1)
    asked = (places >= first[:, None]) & (places < lesson.at[:, None])
    total = (v * asked[:, None, :, None]).sum(2).flatten(1)
    return total / asked.sum(1, keepdim=True).clamp_min(1)


def _only(ways: Tensor, count: int) -> Tensor:
    """`[M, count]`: 0 at the number of a way, and -inf elsewhere."""
    one = torch.arange(count, device=ways.device) == ways[:, None]
    return torch.where(one, 0.0, -torch.inf)
