"""Teacher: the target reads and continues texts, and what it knew at each token is kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from specdec.cache.store import KVStore
from specdec.drafts.longspec.checkpoint import attention_of
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.model.target import Target

if TYPE_CHECKING:
    from typing_extensions import Self

ANCHORS = 4  # first positions that keep their place when the others are moved up
Kept = tuple[Tensor, Tensor, Tensor, Tensor]  # columns of queries, hidden, top ids, top logp
TOP = 32  # most probable tokens whose probability is kept


@dataclass(frozen=True)
class Texts:
    """Tensors of which each has a row for every text."""

    def texts(self, rows: list[int], device: torch.device) -> Self:
        """Some of the texts, on a device: a batch of a step."""
        return type(self)(**{name: x[rows].to(device) for name, x in vars(self).items()})


@dataclass(frozen=True)
class Lesson(Texts):
    """`N` texts of `T` tokens each, and the target's answer after each token.

    tokens, positions: `int64[N, T]`; k, v: `[N, Hkv, T, D]`, the KV of the layer that drafters
    read; queries: `[N, T, H * D]`, that layer's own before they are turned, or `[N, T, 0]` where
    they are not made apart; hidden: `[N, T, hidden]`, what the LM head was given; top_ids
    `int32[N, T, TOP]`, top_logp `float16[N, T, TOP]`: the target's most probable next tokens.
    """

    tokens: Tensor
    positions: Tensor
    k: Tensor
    v: Tensor
    queries: Tensor
    hidden: Tensor
    top_ids: Tensor
    top_logp: Tensor


class Teacher:
    """Makes lessons with a Target, whose weights it never changes."""

    def __init__(self, target: Target, layer: int) -> None:
        self.target, self.layer = target, layer
        self._query = getattr(attention_of(target, layer), "q_proj", None)

    @torch.inference_mode()
    def continued(
        self,
        feeds: list[Callable[[], list[int]]],
        length: int,
        offset: int,
        temperatures: Tensor,
        rng: random.Random,
        *,
        stop: set[int],
        patience: int = 192,
    ) -> Lesson:
        """Texts of `length` tokens that the target writes itself, one for each of `feeds`.

        A text starts with what its feed gives; the target goes on, greedily or at its temperature
        (`[N]`, 0 for greedy), until it gives a token of `stop` or `patience` tokens have passed;
        then the feed gives more. Positions from ANCHORS on are moved up by `offset`.
        """
        rows = len(feeds)
        texts = [list(feed()) for feed in feeds]
        noise = torch.Generator().manual_seed(rng.getrandbits(62))
        store = self.target.new_store(rows, length)
        view = FullView()
        known = min(length, min(map(len, texts)))
        kept = self._read(store, view, [text[:known] for text in texts], offset)
        written = [0] * rows
        while known < length:
            guesses = self._draw(kept[-1], temperatures, noise)
            for row, text in enumerate(texts):
                if len(text) > known:
                    continue
                text.append(guesses[row])
                written[row] += 1
                if guesses[row] in stop or written[row] >= patience:
                    text.extend(feeds[row]())
                    written[row] = 0
            column = [[text[known]] for text in texts]
            where = anchor_offset(torch.tensor([[known]]), offset).expand(rows, 1)
            kept.append(self._step(store, view, column, where))
            known += 1
        return self._lesson(store, [text[:length] for text in texts], kept, offset)

    @torch.inference_mode()
    def read(self, texts: list[list[int]], offset: int) -> Lesson:
        """What the target makes of texts of one length, as they are."""
        store = self.target.new_store(len(texts), len(texts[0]))
        return self._lesson(store, texts, self._read(store, FullView(), texts, offset), offset)

    def _read(
        self, store: KVStore, view: FullView, texts: list[list[int]], offset: int
    ) -> list[Kept]:
        """What is kept of the start of each text."""
        length, kept = len(texts[0]), []
        some = max(1, 512 // length)
        for first in range(0, len(texts), some):
            rows = list(range(first, min(first + some, len(texts))))
            parts = []
            for start in range(0, length, 512):
                end = min(start + 512, length)
                positions = anchor_offset(torch.arange(start, end), offset).expand(len(rows), -1)
                pass_ = ForwardPass(store, view, rows, positions)
                parts.append(self._run([texts[row][start:end] for row in rows], pass_))
                for row in rows:
                    store.commit(row, range(end - start))
            kept.append([torch.cat(x, 1) for x in zip(*parts, strict=True)])
        queries, hidden, ids, logp = (torch.cat(x) for x in zip(*kept, strict=True))
        return [(queries, hidden, ids, logp)]

    def _step(
        self,
        store: KVStore,
        view: FullView,
        column: list[list[int]],
        positions: Tensor,
        position_ids: Tensor | None = None,
    ) -> Kept:
        """A token of every row, at `positions[rows, 1]`; turned by `position_ids` if given."""
        rows = len(column)
        anc = torch.ones(rows, 1, 1, dtype=torch.int64)
        pass_ = ForwardPass(
            store, view, range(rows), positions, anc=anc, staged_positions=positions,
            position_ids=position_ids,
        )  # fmt: skip
        kept = self._run(column, pass_)
        for row in range(rows):
            store.levels[-1].extend(row, 1)
        return kept

    def _run(self, tokens: list[list[int]], pass_: ForwardPass) -> Kept:
        hidden: list[Tensor] = []
        queries: list[Tensor] = []
        head = self.target.model.get_output_embeddings()
        assert head is not None
        hooks = [head.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))]
        if isinstance(self._query, nn.Module):
            hooks.append(self._query.register_forward_hook(lambda _, __, out: queries.append(out)))
        try:
            logits = self.target.forward(tokens, pass_)
        finally:
            for hook in hooks:
                hook.remove()
        top, ids = logits.topk(TOP)
        logp = top.float() - logits.float().logsumexp(-1, keepdim=True)
        asked = queries.pop() if queries else logits[..., :0]
        return asked, hidden.pop(), ids.int(), logp.half()

    def _draw(self, last: Kept, temperatures: Tensor, noise: torch.Generator) -> list[int]:
        """One token a row; sampled among the TOP most probable, greedy at temperature 0."""
        logp = last[3][:, -1].float()
        uniform = torch.rand(logp.shape, generator=noise).clamp_min(1e-10)
        best = (logp - temperatures[:, None] * (-uniform.log()).log()).argmax(-1)
        return last[2][:, -1].gather(-1, best[:, None])[:, 0].tolist()

    def _lesson(
        self,
        store: KVStore,
        texts: list[list[int]],
        kept: list[Kept],
        offset: int,
    ) -> Lesson:
        queries, hidden, ids, logp = (torch.cat(x, 1) for x in zip(*kept, strict=True))
        k, v = store.levels[0].k[self.layer], store.levels[0].v[self.layer]
        assert k is not None and v is not None
        tokens = torch.tensor(texts)
        positions = anchor_offset(torch.arange(tokens.shape[1]), offset).expand(tokens.shape)
        return Lesson(tokens, positions.contiguous(), k, v, queries, hidden, ids, logp)


def anchor_offset(index: Tensor, offset: int) -> Tensor:
    """Anchor-offset positions (LongSpec, arXiv 2502.17421): i for the first ones, else i + offset.

    Short texts so teach a drafter about late positions; the anchors, which serve as attention
    sinks, stay where the target has always seen them.
    """
    return torch.where(index < ANCHORS, index, index + offset)
