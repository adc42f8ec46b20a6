"""Where training starts: a block that begins as parts of its target, and a draft vocabulary."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

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
    if block.cross_token is not None:
        nn.init.zeros_(block.cross_token.weight)
        nn.init.zeros_(block.cross_token.bias)
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


class Judged(Protocol):
    """A lesson's most probable next tokens, of any shape, and their log-probabilities."""

    @property
    def top_ids(self) -> Tensor: ...

    @property
    def top_logp(self) -> Tensor: ...


class Parts(Protocol):
    """A batch as the stages of a block read it, at `M` places that are learned from.

    hidden `[B, n, hidden]` and queries `[B, n, H * D]` (or `[B, n, 0]`) are the target's there.
    """

    hidden: Tensor
    queries: Tensor

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Embeddings `[B, n, hidden]` of the tokens, and of those just before them."""

    def near(self) -> Tensor:
        """Self-attention's heads side by side, `[B, n, H * D]`."""

    def state(self, lag: int) -> Tensor:
        """The target's newest cached entry, `lag` tokens back, `[B, n, S]`."""

    def far(self, h: Tensor, lag: int) -> Tensor:
        """Cross-attention's heads side by side, `[B, n, H * Dv]`."""

    def kept(self, x: Tensor, lag: int) -> Tensor:
        """The places of `x[B, n, F]` that are learned from, `[M, F]`."""


@torch.no_grad()
def solve_start(block: LongSpecBlock, batches: Sequence[Parts]) -> None:
    """Solve all output matrices of `block`, in place, for the target's hidden states.

    Stage by stage, each by ridge regression on what the stages before left unexplained: the linear
    reading together with self-attention, the readings of KV that is more tokens behind, the queries
    of cross-attention (for those of the target's layer that it reads), cross-attention, and the
    MLP, whose inner features stay random (an extreme learning machine).
    """
    for layer in (block.self_o, block.cross_o, block.mlp_down):
        nn.init.zeros_(layer.weight)
    for reader in block.state_in:
        nn.init.zeros_(_weight(reader))
    both = range(1, min(2, block.sizes.max_lag) + 1)
    _solve_reading(block, batches)
    for lag in range(2, block.sizes.max_lag + 1):
        sums = _Sums()
        for p in batches:
            sums.add(p, lag, p.state(lag), p.hidden - _reading(block, p, lag))
        _weight(block.state_in[lag - 1]).copy_(sums.solve(0.01).T)
    if all(p.queries.shape[-1] == block.cross_q.out_features for p in batches):
        _solve_queries(block, batches, both)
    sums = _Sums()
    for p in batches:
        for lag in both:
            h = _reading(block, p, lag)
            sums.add(p, lag, p.far(h, lag), p.hidden - h)
    block.cross_o.weight.copy_(sums.solve(0.01).T)
    sums = _Sums()
    for p in batches:
        for lag in both:
            h = _reading(block, p, lag)
            h = h + block.cross_o(p.far(h, lag))
            sums.add(p, lag, block.mlp_inner(h), p.hidden - h)
    block.mlp_down.weight.copy_(sums.solve(0.03).T)


def _solve_reading(block: LongSpecBlock, batches: Sequence[Parts]) -> None:
    """The linear reading, one token ahead of the target's KV, together with self-attention."""
    sums = _Sums()
    widths: list[int] = []
    for p in batches:
        x, before = p.inputs()
        features = (x, before, p.near(), p.state(1), torch.ones_like(x[..., :1]))
        widths = [part.shape[-1] for part in features]
        sums.add(p, 1, torch.cat(features, -1), p.hidden)
    parts = [part.T for part in sums.solve(0.01).split(widths)]
    for weight, part in zip(
        (block.token_in.weight, block.before_in.weight, block.self_o.weight,
         _weight(block.state_in[0])), parts, strict=False,
    ):  # fmt: skip
        weight.copy_(part)
    block.token_in.bias.copy_(parts[-1][:, 0])


def _solve_queries(block: LongSpecBlock, batches: Sequence[Parts], lags: range) -> None:
    """Queries of cross-attention, for the target's own at the layer that is read."""
    sums = _Sums()
    for p in batches:
        x, _ = p.inputs()
        for lag in lags:
            features = [block.cross_norm(_reading(block, p, lag))]
            if block.cross_token is not None:
                features += [block.self_norm(x), torch.ones_like(x[..., :1])]
            sums.add(p, lag, torch.cat(features, -1), p.queries)
    found = sums.solve(0.01).T
    width = block.sizes.hidden_size
    block.cross_q.weight.copy_(found[:, :width])
    if block.cross_token is not None:
        block.cross_token.weight.copy_(found[:, width:-1])
        block.cross_token.bias.copy_(found[:, -1])


def _reading(block: LongSpecBlock, p: Parts, lag: int) -> Tensor:
    """h before cross-attention."""
    x, before = p.inputs()
    return block.start(x, before) + block.newest(p.state(lag), lag) + block.self_o(p.near())


class TextParts:
    """Whole texts, of which every token but the first ones is learned from; see `Parts`."""

    def __init__(self, block: LongSpecBlock, frozen: Frozen, batch: Lesson) -> None:
        self.block, self.frozen, self.batch = block, frozen, batch
        self.embedded = frozen.embedding(batch.tokens).detach().float()
        self.k, self.v = batch.k.float(), batch.v.float()
        self.hidden, self.queries = batch.hidden.float(), batch.queries.float()

    def inputs(self) -> tuple[Tensor, Tensor]:
        return self.embedded, behind(self.embedded, 1)

    def near(self) -> Tensor:
        return self.block.near(self.embedded, self.frozen.rotary, self.batch.positions)

    def state(self, lag: int) -> Tensor:
        state = self.block.state(self.k, self.v, self.frozen.rotary, self.batch.positions)
        return behind(state, lag)

    def far(self, h: Tensor, lag: int) -> Tensor:
        rotary, positions = self.frozen.rotary, self.batch.positions
        return self.block.far(h, self.embedded, positions, self.k, self.v, rotary, lag)

    def kept(self, x: Tensor, lag: int) -> Tensor:
        return x[:, 2 * SKIP :].flatten(0, 1)


class _Sums:
    """The normal equations of a regression, summed over texts."""

    def __init__(self) -> None:
        self.xx: Tensor | float = 0.0
        self.xy: Tensor | float = 0.0

    def add(self, p: Parts, lag: int, x: Tensor, y: Tensor) -> None:
        """Add `x[B, n, F]` and what it should give, `y[B, n, G]`, at places learned from."""
        x, y = p.kept(x, lag), p.kept(y, lag)
        self.xx, self.xy = self.xx + x.T @ x, self.xy + x.T @ y

    def solve(self, shrink: float) -> Tensor:
        """`w[F, G]`, with every feature shrunk in proportion to its variance."""
        assert isinstance(self.xx, Tensor) and isinstance(self.xy, Tensor)
        diagonal = self.xx.diagonal()
        xx = self.xx + torch.diag(shrink * diagonal + 1e-6 * diagonal.mean())
        return torch.linalg.solve(xx, self.xy)


def batches(lessons: list[Lesson], device: torch.device) -> Iterator[Lesson]:
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
    size: int, vocab_size: int, lessons: Sequence[Judged], corpus: Corpus, tokenizer: Any, seed: int
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
