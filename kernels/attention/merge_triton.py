"""merge on a GPU: partials held in separate tensors, and the splits of one kernel's keys."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu.tiles import power_of_two

ROWS = 8  # rows of one program of `merge`
CHUNK = 16  # splits that `merge_splits` has in flight


def merge(partials: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.merge`."""
    if len(partials) == 1:
        return partials[0]
    parts = tuple(o.contiguous() for o, _ in partials)
    lses = tuple(lse.contiguous() for _, lse in partials)
    o, lse = torch.empty_like(parts[0]), torch.empty_like(lses[0])
    rows, dim = lse.numel(), o.shape[-1]
    _merge[(triton.cdiv(rows, ROWS),)](
        parts, lses, o, lse, rows,
        DIM=dim, ROWS=ROWS, WIDTH=power_of_two(dim), enable_fp_fusion=True,
    )  # fmt: skip
    return o, lse


def merge_splits(parts: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """The same for partials `[splits, ..., Dv]` and lses `[splits, ...]` of one tensor each.

    What `parts` holds where lse is -inf is never read.
    """
    o, lse = torch.empty_like(parts[0]), torch.empty_like(lses[0])
    rows, dim, splits = lse.numel(), o.shape[-1], len(parts)
    _merge_splits[(rows,)](
        parts, lses, o, lse, rows, splits,
        DIM=dim, SPLITS=power_of_two(splits), CHUNK=CHUNK, WIDTH=power_of_two(dim),
        enable_fp_fusion=True,
    )  # fmt: skip
    return o, lse


@triton.jit
def _safe(peak):
    """The peak as something to subtract: exp(-inf - _safe(-inf)) is 0, not NaN."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _merge(
    parts, lses, o, lse, rows,
    DIM: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    at = r[:, None] * DIM + d[None, :]
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    for j in tl.static_range(len(parts)):
        peak = tl.maximum(peak, tl.load(lses[j] + r, mask=r < rows, other=float("-inf")))
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for j in tl.static_range(len(parts)):
        weight = tl.exp(tl.load(lses[j] + r, mask=r < rows, other=float("-inf")) - _safe(peak))
        total += weight
        part = tl.load(parts[j] + at, mask=(weight > 0)[:, None] & (d < DIM)[None, :], other=0.0)
        acc += weight[:, None] * part
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(o + at, acc, mask=(r < rows)[:, None] & (d < DIM)[None, :])
    tl.store(lse + r, peak + tl.log(tl.where(total > 0, total, 1.0)), mask=r < rows)


@triton.jit
def _merge_splits(
    parts, lses, o, lse, rows, splits,
    DIM: tl.constexpr, SPLITS: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, SPLITS)
    d = tl.arange(0, WIDTH)
    every = tl.load(lses + s.to(tl.int64) * rows + r, mask=s < splits, other=float("-inf"))
    peak = tl.max(every, 0)
    total = tl.sum(tl.exp(every - _safe(peak)), 0)
    acc = tl.zeros([WIDTH], tl.float32)
    for start in range(0, splits, CHUNK):
        c = start + tl.arange(0, CHUNK)
        slot = c.to(tl.int64) * rows + r
        weight = tl.exp(tl.load(lses + slot, mask=c < splits, other=float("-inf")) - _safe(peak))
        part = tl.load(
            parts + slot[:, None] * DIM + d[None, :],
            mask=(weight > 0)[:, None] & (d < DIM)[None, :],
            other=0.0,
        )
        acc += tl.sum(weight[:, None] * part, 0)
    acc = acc / tl.where(total > 0, total, 1.0)
    tl.store(o + r * DIM + d, acc, mask=d < DIM)
    tl.store(lse + r, peak + tl.log(tl.where(total > 0, total, 1.0)))
