"""choose_tokens on a GPU: a row's vocabulary is cut among programs, since float64 logs are dear."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu import tiles

BLOCK = 512  # blocks of four words of noise in one step
LEAST = 4096  # tokens of one program


def choose_tokens(
    scores: Tensor, seeds: Tensor | None = None, counters: Tensor | None = None
) -> Tensor:
    """See `specdec.kernels.sampling.choose_tokens`."""
    rows, vocab = scores.shape
    scores = scores if scores.stride(-1) == 1 else scores.contiguous()
    parts = min(triton.cdiv(2 * tiles.processors(scores.device), rows), triton.cdiv(vocab, LEAST))
    share = triton.cdiv(triton.cdiv(vocab, parts), 4 * BLOCK) * 4 * BLOCK
    best = scores.new_empty(rows, parts, dtype=torch.float64)
    token = scores.new_empty(rows, parts, dtype=torch.int64)
    if seeds is not None and counters is not None:
        seeds = seeds.to(scores.device, non_blocking=True)
        counters = counters.to(scores.device, non_blocking=True).contiguous()
    _choose[(rows, parts)](
        scores, seeds, counters, best, token, scores.stride(0), vocab, share,
        BLOCK=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    highest = best.amax(-1, keepdim=True)
    return torch.where(best == highest, token, vocab - 1).amin(-1)


@triton.jit
def _choose(
    scores, seeds, counters, best, token, stride, vocab, share, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    scores += row * stride
    top = tl.full([BLOCK], float("-inf"), tl.float64)
    where = tl.full([BLOCK], 2147483647, tl.int32)
    end = tl.minimum((part + 1) * share, vocab)
    for start in range(part * share, end, 4 * BLOCK):
        block = start // 4 + tl.arange(0, BLOCK)
        if seeds is not None:
            words = tl.philox(
                tl.load(seeds + row), block,
                tl.load(counters + row * 3).to(tl.uint32),
                tl.load(counters + row * 3 + 1).to(tl.uint32),
                tl.load(counters + row * 3 + 2).to(tl.uint32),
            )  # fmt: skip
        for j in tl.static_range(4):
            i = block * 4 + j
            x = tl.load(scores + i, mask=i < end, other=float("-inf")).to(tl.float64)
            if seeds is not None:
                uniform = (words[j].to(tl.uint32, bitcast=True).to(tl.float64) + 0.5) * 2.0**-32
                x += -tl.log(-tl.log(uniform))
            # a later token counts if it is higher; of equal ones the lowest
            better = (i < end) & ((x > top) | ((x == top) & (i < where)))
            top, where = tl.where(better, x, top), tl.where(better, i, where)
    highest = tl.max(top, 0)
    found = tl.min(tl.where(top == highest, where, 2147483647), 0)
    tl.store(best + row * tl.num_programs(1) + part, highest)
    tl.store(token + row * tl.num_programs(1) + part, tl.minimum(found, vocab - 1).to(tl.int64))
