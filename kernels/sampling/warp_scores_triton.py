"""warp_scores on a GPU: one program a row finds thresholds in integers of the scores' order."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu.radix_order import LEAST, order, select

BLOCK = 2048


def warp_scores(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """See `specdec.kernels.sampling.warp_scores`."""
    rows, vocab = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    out = logits.new_empty(rows, vocab, dtype=torch.float32)
    settings = (x.to(logits.device, non_blocking=True) for x in (temperature, top_k, top_p, min_p))
    _warp[(rows,)](
        logits, *settings, out, logits.stride(0), vocab,
        BLOCK=BLOCK, num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    return out


@triton.jit
def _warp(
    logits, temperature, top_k, top_p, min_p, out, stride, vocab, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    out += row * vocab
    heat = tl.load(temperature + row)
    peak = float("-inf")
    for start in range(0, vocab, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(logits + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        x = tl.div_rn(x, tl.full([BLOCK], 1.0, tl.float32) * heat)
        tl.store(out + i, x, mask=i < vocab)
        peak = tl.maximum(peak, tl.max(x, 0))
    tl.debug_barrier()

    least = tl.full([], LEAST, tl.int64)  # the order of the lowest score that stays
    k = tl.load(top_k + row)
    if (k > 0) & (k < vocab):
        least, _ = select(out, vocab, k, BLOCK)
    p = tl.load(top_p + row)
    if p < 1.0:
        allowed = (1.0 - p.to(tl.float64)) * _mass(out, vocab, peak, least, 1 << 32, BLOCK)
        below = tl.full([], 0, tl.int64)  # what holds no more than that
        for place in range(32):
            step = (tl.full([], 1, tl.int64) << (31 - place)).to(tl.int64)
            if _mass(out, vocab, peak, least, below + step, BLOCK) <= allowed:
                below += step
        top = order(tl.full([1], 0.0, tl.float32) + peak)
        least = tl.maximum(least, tl.minimum(below, tl.max(top, 0)))
    floor = tl.load(min_p + row)
    for start in range(0, vocab, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(out + i, mask=i < vocab, other=float("-inf"))
        gone = (order(x) < least) | (tl.exp(x - peak) < floor)
        tl.store(out + i, tl.where(gone, float("-inf"), x), mask=i < vocab)


@triton.jit
def _mass(scores, vocab, peak, least, end, BLOCK: tl.constexpr):
    """Sum of exp(score - peak) over the scores whose order lies in [least, end), in float64."""
    total = tl.zeros([], tl.float64)
    for start in range(0, vocab, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(scores + i, mask=i < vocab, other=float("-inf"))
        key = order(x)
        inside = (i < vocab) & (key >= least) & (key < end)
        total += tl.sum(tl.where(inside, tl.exp(x - peak), 0.0).to(tl.float64), 0)
    return total
