"""Where training starts: a block that begins as parts of its target, and a draft vocabulary."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from specdec.drafts.longspec_block import LongSpecBlock, Sizes, behind
from specdec.drafts.longspec_checkpoint import attention_of
from specdec.drafts.training.corpus import Corpus
from specdec.drafts.training.objective import SKIP, Frozen, Sheet
from specdec.drafts.training.teacher import Lesson
from specdec.target import Target


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
    return block


@torch.no_grad()
def solve_start(
    block: LongSpecBlock, frozen: Frozen, lessons: list[Lesson], device: torch.device
) -> None:
    """Set the linear part of `block`, in place, to what best foretells the target's hidden states.

    Ridge regression on some lessons, first with the target's KV one token behind and then, for the
    rest that the tokens do not explain, with more lag. The other parts begin silent. After 40 steps
    of gradient descent from random weights agreement was 0.14; this alone gives 0.27.
    """
    for layer in (block.self_o, block.cross_o, block.mlp_down):
        nn.init.zeros_(layer.weight)
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for lag in range(1, block.sizes.max_lag + 1):
        for sheet in _sheets(lessons, device):
            x, y = _regression(block, frozen, sheet, lag)
            before = sums.get(lag, (0, 0))
            sums[lag] = before[0] + x.T @ x, before[1] + x.T @ y
    hidden = block.sizes.hidden_size
    whole = _ridge(*sums[1])
    block.token_in.weight.copy_(whole[:hidden].T)
    block.before_in.weight.copy_(whole[hidden : 2 * hidden].T)
    _weight(block.state_in[0]).copy_(whole[2 * hidden : -1].T)
    block.token_in.bias.copy_(whole[-1])
    tokens = torch.cat((torch.arange(2 * hidden), torch.tensor([len(whole) - 1]))).to(device)
    states = torch.arange(2 * hidden, len(whole) - 1, device=device)
    for lag in range(2, block.sizes.max_lag + 1):
        xx, xy = sums[lag]
        left = xy[states] - xx[states][:, tokens] @ whole[tokens]
        _weight(block.state_in[lag - 1]).copy_(_ridge(xx[states][:, states], left).T)


def _sheets(lessons: list[Lesson], device: torch.device) -> Iterator[Sheet]:
    """All texts of some lessons, about 4,096 tokens at a time."""
    for lesson in lessons:
        some = max(1, 4096 // lesson.tokens.shape[1])
        for at in range(0, len(lesson.tokens), some):
            yield Sheet.of(lesson, list(range(at, min(at + some, len(lesson.tokens)))), device)


def _regression(
    block: LongSpecBlock, frozen: Frozen, sheet: Sheet, lag: int
) -> tuple[Tensor, Tensor]:
    """What the linear part reads, with a column of ones, and the hidden states it should give."""
    embedded = frozen.embedding(sheet.tokens).float()
    state = block.state(sheet.k.float(), sheet.v.float(), frozen.rotary, sheet.positions)
    columns = (embedded, behind(embedded, 1), behind(state, lag), torch.ones_like(state[..., :1]))
    x = torch.cat(columns, -1)[:, 2 * SKIP :].flatten(0, 1)
    return x, sheet.hidden[:, 2 * SKIP :].flatten(0, 1).float()


def _ridge(xx: Tensor, xy: Tensor) -> Tensor:
    """The solution of `xx w = xy`, with every feature shrunk in proportion to its variance."""
    xx = xx + torch.diag(0.01 * xx.diagonal() + 1e-6 * xx.diagonal().mean())
    return torch.linalg.solve(xx, xy)


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
