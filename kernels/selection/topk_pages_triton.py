"""topk_pages on a GPU: a radix selection for each kv head, then a rank for each page it found.

Scores become integers of the same order, forced pages the greatest of them. Four passes over one
byte each find the lowest one that is still chosen; what was found is ranked by counting, since a
choice is far smaller than the text.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu.radix_order import narrow, order
from specdec.kernels.selection.topk_pages import most_pages

BLOCK = 1024  # scores of one step of the selection
RANKED = 64  # pages that one program ranks


def topk_pages(
    scores: Tensor,
    pages: Tensor,
    tail: Tensor,
    *,
    page_size: int,
    budget: int,
    sink: int,
    recent: int,
) -> Tensor:
    """See `specdec.kernels.selection.topk_pages`."""
    batch, kv_heads, most = scores.shape
    width = most_pages(most, page_size, budget)
    chosen = scores.new_full((batch, kv_heads, width), -1, dtype=torch.int32)
    if width == 0:
        return chosen
    scores = scores.float().contiguous()
    pages, tail = (x.to(scores.device, non_blocking=True) for x in (pages, tail))
    found = scores.new_empty(batch, kv_heads, width, dtype=torch.int64)
    _select[(kv_heads, batch)](
        scores, pages, tail, found, most, width, page_size, budget, sink, recent,
        BLOCK=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    _rank[(triton.cdiv(width, RANKED), kv_heads, batch)](
        found, pages, tail, chosen, width, page_size, budget, RANKED=RANKED, enable_fp_fusion=True
    )
    return chosen


@triton.jit
def _forced(scores, i, full, first, last):
    """The order of `scores`, in which forced pages are the greatest."""
    key = order(tl.load(scores + i, mask=i < full, other=0.0))
    key = tl.where(i >= full - last, 0xFFFFFFFE, key)
    return tl.where(i < first, 0xFFFFFFFF, key)


@triton.jit
def _select(
    scores, pages, tail, found, most, width, page_size, budget, sink, recent, BLOCK: tl.constexpr
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    head = b * tl.num_programs(0) + tl.program_id(0)
    scores += head * most
    found += head * width
    full = tl.minimum(tl.load(pages + b), most)
    behind = tl.load(tail + b)
    count = tl.minimum(tl.minimum(full, tl.maximum(budget - behind, 0) // page_size), width)
    last = (tl.maximum(recent - behind, 0) + page_size - 1) // page_size
    first = (sink + page_size - 1) // page_size
    lowest = tl.zeros([], tl.int64)  # of what is chosen: its upper bytes, one more each time
    ties = count  # places left for those that begin with `lowest`
    for place in tl.static_range(4):
        shift = 24 - 8 * place
        counts = tl.zeros([256], tl.int32)
        for start in range(0, full, BLOCK):
            i = start + tl.arange(0, BLOCK)
            key = _forced(scores, i, full, first, last)
            among = (i < full) & ((key >> (shift + 8)) == lowest)
            counts += tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=among)
        lowest, ties = narrow(lowest, ties, counts)
    above, equal = tl.zeros([], tl.int32), tl.zeros([], tl.int32)
    for start in range(0, full, BLOCK):
        i = start + tl.arange(0, BLOCK)
        key = _forced(scores, i, full, first, last)
        higher = ((i < full) & (key > lowest)).to(tl.int32)
        same = ((i < full) & (key == lowest)).to(tl.int32)
        at = above + tl.cumsum(higher, 0) - 1
        at_same = equal + tl.cumsum(same, 0) - 1
        at = tl.where(same == 1, count - ties + at_same, at)
        kept = (higher == 1) | ((same == 1) & (at_same < ties))
        # the lower page first among equals
        tl.store(found + at, ((key - 0x80000000) << 32) | (0x7FFFFFFF - i), mask=kept)
        above += tl.sum(higher, 0)
        equal += tl.sum(same, 0)


@triton.jit
def _rank(found, pages, tail, chosen, width, page_size, budget, RANKED: tl.constexpr):
    b = tl.program_id(2).to(tl.int64)
    head = b * tl.num_programs(1) + tl.program_id(1)
    found += head * width
    free = tl.maximum(budget - tl.load(tail + b), 0) // page_size
    count = tl.minimum(tl.minimum(tl.load(pages + b), free), width)
    i = tl.program_id(0) * RANKED + tl.arange(0, RANKED)
    mine = tl.load(found + i, mask=i < count, other=0)
    rank = tl.zeros([RANKED], tl.int32)
    for start in range(0, count, RANKED):
        j = start + tl.arange(0, RANKED)
        other = tl.load(found + j, mask=j < count, other=-0x7FFFFFFFFFFFFFFF)
        rank += tl.sum((other[None, :] > mine[:, None]).to(tl.int32), 1)
    page = 0x7FFFFFFF - (mine & 0x7FFFFFFF)
    tl.store(chosen + head * width + rank, page.to(tl.int32), mask=i < count)
