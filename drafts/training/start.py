"""Where training starts: a block that begins as parts of its target, and a draft vocabulary."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from specdec.drafts.longspec_block import LongSpecBlock, Sizes
from specdec.drafts.longspec_checkpoint import attention_of
from specdec.drafts.training.corpus import Corpus
from specdec.drafts.training.teacher import Lesson
from specdec.target import Target


def new_block(target: Target, sizes: Sizes, seed: int) -> LongSpecBlock:
    """A block whose self-attention and norms are the target's first layer's, and whose
    cross-attention is that of the layer it reads, wherever shapes allow; the rest is random.

    The first layer knows how to look at the tokens just before, the last one what is in its values.
    """
    torch.manual_seed(seed)
    block = LongSpecBlock(sizes)
    for layer in (block.self_o, block.cross_o, block.mlp_down):
        nn.init.normal_(layer.weight, std=0.02)
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
