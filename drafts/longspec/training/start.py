"""Where training starts: a block that begins as parts of its target, and a draft vocabulary."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from specdec.drafts.longspec.block import LongSpecBlock, Sizes, behind
from specdec.drafts.longspec.checkpoint import attention_of
from specdec.drafts.longspec.training.corpus import Corpus
from specdec.drafts.longspec.training.objective import SKIP, Frozen
from specdec.drafts.longspec.training.teacher import Lesson
from specdec.model.target import Target


def new_block(target: Target, sizes: Sizes, seed: int) -> LongSpecBlock:
    """A block whose self-attention is the target's first layer's, and whose cross-attention is that
    of the layer it reads, wherever shapes allow; the rest is random.

    The first layer knows how to look at the tokens just before, the last one what is in its values.
    """
    torch.manual_seed(seed)
    block = LongSpecBlock(sizes)
    first, last = attention_of(target, 0), attention_of(target, sizes.kv_layer)
    for name in ("q", "k", "v", "o"):
        _copy(getattr(block, f"self_{name}"), getattr(first, f"{name}_proj", None))
    for name in ("q", "o"):
        _copy(getattr(block, f"cross_{name}"), getattr(last, f"{name}_proj", None))
    if sizes.query_norm:
        _copy(block.cross_q_norm, getattr(last, "q_norm", None))
    for layer in (block.self_q, block.self_k, block.self_v):
        if getattr(first, "q_proj", None) is None or first.q_proj.bias is None:
            nn.init.zeros_(layer.bias)
    _copy(block.self_norm, norm_before(target, first))
    _copy(block.cross_norm, norm_before(target, last))
    for layer in (block.mlp_gate, block.mlp_up):
        nn.init.normal_(layer.weight, std=sizes.hidden_size**-0.5)
    return block


def norm_before(target: Target, attention: Any) -> Any:
    """The norm in front of an attention module, or None."""
    for layer in target.decoder.modules():
        if attention is not None and getattr(layer, "self_attn", None) is attention:
            return getattr(layer, "input_layernorm", None)
    return None


@torch.no_grad()
def solve_start(
    block: LongSpecBlock, frozen: Frozen, lessons: list[Lesson], device: torch.device
) -> None:
    """Solve all output matrices of `block`, in place, for the target's hidden states.

    Stage by stage, each by ridge regression on what the stages before left unexplained: the linear
    reading together with self-attention, the readings of KV that is more tokens behind,
    cross-attention, and the MLP, whose inner features stay random (an extreme learning machine).
    """
    outputs = (block.self_o, block.cross_o, block.mlp_down)
    for layer in outputs:
        nn.init.zeros_(layer.weight)
    for reader in block.state_in:
        nn.init.zeros_(_weight(reader))
    both = range(1, min(2, block.sizes.max_lag) + 1)
    width = block.sizes.hidden_size
    sums = _Sums()
    for batch in _batches(lessons, device):
        p = _Parts(block, frozen, batch)
        ones = torch.ones_like(p.embedded[..., :1])
        near = block.near(p.embedded, frozen.rotary, batch.positions)
        features = (p.embedded, behind(p.embedded, 1), near, behind(p.state, 1), ones)
        sums.add(torch.cat(features, -1), p.hidden)
    found = sums.solve(0.01)
    ends = torch.tensor([width, width, near.shape[-1], p.state.shape[-1], 1]).cumsum(0).tolist()
    parts = [found[a:e].T for a, e in zip([0, *ends[:-1]], ends, strict=True)]
    for weight, part in zip(
        (block.token_in.weight, block.before_in.weight, block.self_o.weight,
         _weight(block.state_in[0])), parts, strict=False,
    ):  # fmt: skip
        weight.copy_(part)
    block.token_in.bias.copy_(parts[-1][:, 0])
    for lag in range(2, block.sizes.max_lag + 1):
        sums = _Sums()
        for batch in _batches(lessons, device):
            p = _Parts(block, frozen, batch)
            sums.add(behind(p.state, lag), p.hidden - p.reading(lag))
        _weight(block.state_in[lag - 1]).copy_(sums.solve(0.01).T)
    sums = _Sums()
    for batch in _batches(lessons, device):
        p = _Parts(block, frozen, batch)
        for lag in both:
            h = p.reading(lag)
            sums.add(p.far(h, lag), p.hidden - h)
    block.cross_o.weight.copy_(sums.solve(0.01).T)
    sums = _Sums()
    for batch in _batches(lessons, device):
        p = _Parts(block, frozen, batch)
        for lag in both:
            h = p.reading(lag)
            h = h + block.cross_o(p.far(h, lag))
            sums.add(block.mlp_inner(h), p.hidden - h)
    block.mlp_down.weight.copy_(sums.solve(0.03).T)


class _Parts:
    """A batch as the stages of a block read it."""

    def __init__(self, block: LongSpecBlock, frozen: Frozen, batch: Lesson) -> None:
        self.block, self.frozen, self.batch = block, frozen, batch
        self.embedded = frozen.embedding(batch.tokens).float()
        self.k, self.v, self.hidden = batch.k.float(), batch.v.float(), batch.hidden.float()
        self.state = block.state(self.k, self.v, frozen.rotary, batch.positions)

    def reading(self, lag: int) -> Tensor:
        """h before cross-attention."""
        h = self.block.start(self.embedded, behind(self.embedded, 1))
        h = h + self.block.newest(behind(self.state, lag), lag)
        near = self.block.near(self.embedded, self.frozen.rotary, self.batch.positions)
        return h + self.block.self_o(near)

    def far(self, h: Tensor, lag: int) -> Tensor:
        """Cross-attention's heads."""
        rotary, positions = self.frozen.rotary, self.batch.positions
        return self.block.far(h, positions, self.k, self.v, rotary, lag)


class _Sums:
    """The normal equations of a regression, summed over texts."""

    def __init__(self) -> None:
        self.xx: Tensor | float = 0.0
        self.xy: Tensor | float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add `x[B, T, F]` and what it should give, `y[B, T, hidden]`, but for first tokens."""
        x, y = x[:, 2 * SKIP :].flatten(0, 1), y[:, 2 * SKIP :].flatten(0, 1)
        self.xx, self.xy = self.xx + x.T @ x, self.xy + x.T @ y

    def solve(self, shrink: float) -> Tensor:
        """`w[F, hidden]`, with every feature shrunk in proportion to its variance."""
        assert isinstance(self.xx, Tensor) and isinstance(self.xy, Tensor)
        diagonal = self.xx.diagonal()
        xx = self.xx + torch.diag(shrink * diagonal + 1e-6 * diagonal.mean())
        return torch.linalg.solve(xx, self.xy)


def _batches(lessons: list[Lesson], device: torch.device) -> Iterator[Lesson]:
    """All texts of some lessons, about 4,096 tokens at a time."""
    for lesson in lessons:
        some = max(1, 4096 // lesson.tokens.shape[1])
        for at in range(0, len(lesson.tokens), some):
            yield lesson.texts(list(range(at, min(at + some, len(lesson.tokens)))), device)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight


def _copy(own: Any, theirs: Any) -> None:
    """Copy weight and bias, in place, if they are there and of the same shape."""
    for name in ("weight", "bias"):
        mine, other = getattr(own, name, None), getattr(theirs, name, None)
        if mine is not None and other is not None and mine.shape == other.shape:
            with torch.no_grad():
                mine.copy_(other)


def frequent_tokens(
    size: int, vocab_size: int, lessons: list[Lesson], corpus: Corpus, tokenizer: Any, seed: int
) -> Tensor:
    """The `size` token ids most likely to be drafted, `int64[size]`, in rising order.

    Counted in what the target wrote and nearly wrote in some lessons, and in the corpus.
    """
    counts = torch.zeros(vocab_size, dtype=torch.float64)
    for lesson in lessons:
        weights = lesson.top_logp.double().exp().flatten()
        counts.scatter_add_(0, lesson.top_ids.long().flatten(), weights)
    rng = random.Random(f"{seed}/vocabulary")
    read = torch.zeros(vocab_size, dtype=torch.float64)
    for number in range(1000):
        text = corpus.passage(rng, corpus.kinds[number % len(corpus.kinds)], 1500)
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        read += torch.bincount(ids, minlength=vocab_size)[:vocab_size]
    score = counts / counts.sum().clamp_min(1) + 0.3 * read / read.sum().clamp_min(1)
    return score.topk(min(size, vocab_size)).indices.sort().values
