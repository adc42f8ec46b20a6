"""page_mass on a GPU: one program per (tile of pages, kv head, sequence) goes over all queries."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu.online_softmax import LOG2E, scores
from specdec.kernels.gpu.tiles import power_of_two

ROWS = 16
KEYS = 32  # keys of one program; a longer page is one program's


def page_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    page_size: int,
    scale: float,
    softcap: float | None = None,
    votes: str = "max",
) -> Tensor:
    """See `specdec.kernels.selection.page_mass`."""
    batch, heads, nodes, dim = q.shape
    kv_heads, capacity = k.shape[1:3]
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    pages = triton.cdiv(capacity, page_size)
    block = triton.next_power_of_2(page_size)
    together = max(1, KEYS // block)
    out = q.new_empty(batch, kv_heads, pages, dtype=torch.float32)
    _mass[(triton.cdiv(pages, together), kv_heads, batch)](
        q, k, lse.contiguous(),
        length.to(q.device, non_blocking=True), row_map.to(q.device, non_blocking=True), out,
        scale, softcap or 1.0, *q.stride()[:3], *k.stride()[:3], nodes, pages,
        GROUP=heads // kv_heads, DIM=dim, PAGE=page_size, CAPPED=softcap is not None,
        MEAN=votes == "mean", ROWS=ROWS, PAGES=together, BLOCK=block, WIDTH=power_of_two(dim),
        enable_fp_fusion=True,
    )  # fmt: skip
    return out


@triton.jit
def _mass(
    q, k, lse, length, row_map, out, scale, softcap,
    q_b, q_h, q_n, k_r, k_h, k_c, nodes, pages,
    GROUP: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, CAPPED: tl.constexpr,
    MEAN: tl.constexpr, ROWS: tl.constexpr, PAGES: tl.constexpr, BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    row = tl.load(row_map + b).to(tl.int64)
    end = tl.load(length + row)
    p = tl.program_id(0) * PAGES + tl.arange(0, PAGES)
    slot = (b * tl.num_programs(1) + kv_head) * pages + p
    top = tl.zeros([PAGES], tl.float32)
    if tl.program_id(0) * PAGES * PAGE >= end:
        tl.store(out + slot, top, mask=p < pages)
        return
    d = tl.arange(0, WIDTH)
    n = tl.arange(0, PAGES * BLOCK)
    c = (tl.program_id(0) * PAGES + n // BLOCK) * PAGE + n % BLOCK
    seen = (n % BLOCK < PAGE) & (c < end)
    keys = tl.load(
        k + row * k_r + kv_head * k_h + c.to(tl.int64)[None, :] * k_c + d[:, None],
        mask=seen[None, :] & (d < DIM)[:, None],
        other=0.0,
    )
    for start in range(0, nodes * GROUP, ROWS):
        m = start + tl.arange(0, ROWS)
        live = m < nodes * GROUP
        node = m // GROUP
        head = kv_head * GROUP + m % GROUP
        queries = tl.load(
            q + (b * q_b + head * q_h + node * q_n)[:, None] + d[None, :],
            mask=live[:, None] & (d < DIM)[None, :],
            other=0.0,
        )
        logs = tl.load(
            lse + (b * tl.num_programs(1) * GROUP + head) * nodes + node, mask=live, other=0.0
        )
        s = scores(queries, keys, scale, softcap, CAPPED) - (logs * LOG2E)[:, None]
        share = tl.exp2(tl.where(seen[None, :] & live[:, None], s, float("-inf")))
        mass = tl.sum(tl.reshape(share, [ROWS, PAGES, BLOCK]), 2)
        if MEAN:
            top += tl.sum(mass, 0) / (nodes * GROUP)
        else:
            top = tl.maximum(top, tl.max(mass, 0))
    tl.store(out + slot, top, mask=p < pages)
