"""Viewer: the target answers questions about images, and what it knew at each token is kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.drafts.longspec.training.teacher import Teacher, Texts
from specdec.forward.full_view import FullView
from specdec.sampling.prompt import Prompt


@dataclass(frozen=True)
class ImageLesson(Texts):
    """`N` texts of at most `T` tokens, and the target's answer after each of `A` of them.

    tokens: `int64[N, T]`; k, v: `[N, Hkv, T, D]`, the KV of the layer that drafters read.
    images: `int64[N, I, 2]`, where images begin and end; nothing where both are 0. embeddings:
    `[N, I, n, hidden]`, of the tokens of each, with zeros behind the last one.
    is_line: `bool[N]`, whether the keys of images are turned along one dimension.
    offset: `int64[N]`, what is added to places behind the prompt to have positions.
    at, count: `int64[N]`, the place of the prompt's last token, behind which the answer begins, and
    how many places from there on are learned from; of these, `A` at most:
    queries `[N, A, H * D]`, hidden `[N, A, hidden]`, top_ids `int32[N, A, TOP]`, top_logp
    `float16[N, A, TOP]`.
    """

    tokens: Tensor
    k: Tensor
    v: Tensor
    images: Tensor
    embeddings: Tensor
    is_line: Tensor
    offset: Tensor
    at: Tensor
    count: Tensor
    queries: Tensor
    hidden: Tensor
    top_ids: Tensor
    top_logp: Tensor


class Viewer(Teacher):
    """Makes lessons of prompts with images, with a Target whose weights it never changes."""

    @torch.inference_mode()
    def answered(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[list[int] | None],
        most: int,
        temperatures: Tensor,
        rng: random.Random,
        *,
        stop: set[int],
    ) -> ImageLesson:
        """Answers of at most `most` tokens: those given, or what the target says by itself.

        It does so greedily or at its temperature (`[N]`, 0 for greedy), up to a token of `stop`.
        """
        rows, longest = len(prompts), max(len(prompt.ids) for prompt in prompts)
        noise = torch.Generator().manual_seed(rng.getrandbits(62))
        store, view = self.target.new_store(rows, longest + most), FullView()
        texts = [list(prompt.ids) for prompt in prompts]
        for row, prompt in enumerate(prompts):
            self.target.prefill(store, view, row, prompt.ids[:-1], content=prompt)
        offsets = torch.tensor([[prompt.offset] for prompt in prompts])
        at = torch.tensor([len(prompt.ids) - 1 for prompt in prompts])
        kept, count = [], [most] * rows
        for column in range(most):
            places = at[:, None] + column
            turned = places + offsets if bool(offsets.any()) else None
            fed = [[text[-1]] for text in texts]
            kept.append(self._step(store, view, fed, places, turned))
            guesses = self._draw(kept[-1], temperatures, noise)
            for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
                given = answer[column : column + 1] if answer is not None else [guesses[row]]
                text.append(given[0] if given else text[-1])
                if column < count[row] and (not given or given[0] in stop):
                    count[row] = column + (1 if given else 0)
            if column + 1 >= max(count):
                break
        queries, hidden, ids, logp = (torch.cat(x, 1) for x in zip(*kept, strict=True))
        length = max(map(len, texts)) - 1  # the last one was not read
        keys, values = store.levels[0].k[self.layer], store.levels[0].v[self.layer]
        assert keys is not None and values is not None
        tokens = [[*text[:-1], *[0] * (length - len(text) + 1)] for text in texts]
        read = torch.arange(length) < torch.tensor([[len(text) - 1] for text in texts])
        # Behind a text may lie anything, NaN included.
        k, v = (
            torch.where(read[:, None, :, None], x[:, :, :length], torch.zeros((), dtype=x.dtype))
            for x in (keys, values)
        )
        return ImageLesson(
            torch.tensor(tokens),
            k,
            v,
            _images(prompts),
            _embeddings(prompts, hidden),
            torch.tensor([prompt.positions is None for prompt in prompts]),
            offsets[:, 0],
            at,
            torch.tensor(count),
            queries,
            hidden,
            ids,
            logp,
        )


def _images(prompts: Sequence[Prompt]) -> Tensor:
    """`int64[N, I, 2]`: where images begin and end."""
    most = max(len(prompt.spans) for prompt in prompts)
    found = torch.zeros(len(prompts), most, 2, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        for number, span in enumerate(prompt.spans):
            found[row, number] = torch.tensor([span.start, span.end])
    return found


def _embeddings(prompts: Sequence[Prompt], like: Tensor) -> Tensor:
    """`[N, I, n, hidden]`: what the first layer was given of images, of the type of `like`."""
    spans = [prompt.spans for prompt in prompts]
    longest = max((span.length for some in spans for span in some), default=0)
    found = like.new_zeros(len(spans), max(map(len, spans)), longest, like.shape[-1])
    for row, some in enumerate(spans):
        for number, span in enumerate(some):
            found[row, number, : span.length] = span.read()
    return found
