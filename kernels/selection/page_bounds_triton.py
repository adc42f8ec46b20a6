"""page_bounds on a GPU: one program per (page, kv head, row); pages not newly full do nothing."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.selection.index_scores_triton import score


def update_bounds(
    bounds: Tensor, k: Tensor, since: Tensor, length: Tensor, *, page_size: int, pages: int
) -> None:
    """See `specdec.kernels.selection.page_bounds`."""
    summarise(bounds, k, since, length, page_size=page_size, pages=pages, mean=False)


def score_bounds(
    q: Tensor, bounds: Tensor, length: Tensor, row_map: Tensor, *, page_size: int
) -> Tensor:
    """See `specdec.kernels.selection.page_bounds`."""
    return score(q, bounds, length, row_map, unit=page_size)


def summarise(
    index: Tensor,
    k: Tensor,
    since: Tensor,
    length: Tensor,
    *,
    page_size: int,
    pages: int,
    mean: bool,
) -> None:
    """Write the pages newly full to `index`: `[R, Hkv, P, D]` means, or `[R, Hkv, P, 2, D]`."""
    rows, kv_heads, _, dim = k.shape
    assert index.is_contiguous() and k.stride(-1) == 1
    _summarise[(pages, kv_heads, rows)](
        index, k,
        since.to(k.device, non_blocking=True), length.to(k.device, non_blocking=True),
        *k.stride()[:3], index.shape[2],
        PAGE=page_size, DIM=dim, MEAN=mean, BLOCK=triton.next_power_of_2(page_size),
        WIDTH=triton.next_power_of_2(dim), enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def _summarise(
    index, k, since, length, k_r, k_h, k_c, pages,
    PAGE: tl.constexpr, DIM: tl.constexpr, MEAN: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    page = tl.load(since + row) // PAGE + tl.program_id(0)
    if page >= tl.minimum(tl.load(length + row) // PAGE, pages):
        return
    c, d = tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    held = (c < PAGE)[:, None] & (d < DIM)[None, :]
    at = (page * PAGE + c).to(tl.int64)[:, None] * k_c + d[None, :]
    keys = tl.load(k + row * k_r + kv_head * k_h + at, mask=held, other=0.0).to(tl.float32)
    index += (row * tl.num_programs(1) + kv_head) * pages * DIM * (1 if MEAN else 2)
    if MEAN:
        mean = tl.sum(keys, 0) / PAGE
        tl.store(index + page * DIM + d, mean.to(index.dtype.element_ty), mask=d < DIM)
    else:
        low = tl.min(tl.where(held, keys, float("inf")), 0)
        high = tl.max(tl.where(held, keys, float("-inf")), 0)
        tl.store(index + page * 2 * DIM + d, low.to(index.dtype.element_ty), mask=d < DIM)
        tl.store(index + (page * 2 + 1) * DIM + d, high.to(index.dtype.element_ty), mask=d < DIM)
