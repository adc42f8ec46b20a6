"""gather_attention on a GPU: one program per (sequence, tile, kv head, split of the index)."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.attention.merge_triton import merge_splits
from specdec.kernels.gpu import tiles
from specdec.kernels.gpu.online_softmax import finish, online, scores


def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    page_size: int,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.gather_attention`."""
    batch, heads, nodes, dim = q.shape
    kv_heads, value_dim = v.shape[1], v.shape[3]
    group = heads // kv_heads
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    pages = pages.contiguous()
    keys = pages.shape[2] * page_size
    shape = tiles.tile(nodes * group, dim, value_dim, k.element_size())
    m_tiles = triton.cdiv(nodes * group, shape.rows)
    splits = tiles.split_count(
        programs=batch * m_tiles * kv_heads,
        keys=keys,
        rows=nodes * group,
        dim=dim,
        value_dim=value_dim,
        itemsize=k.element_size(),
        processors=tiles.processors(q.device),
    )
    o = q.new_empty(splits, batch, heads, nodes, value_dim, dtype=torch.float32)
    lse = q.new_empty(splits, batch, heads, nodes, dtype=torch.float32)
    share = triton.cdiv(triton.cdiv(keys, splits), shape.keys) * shape.keys
    _gather[(batch * m_tiles, kv_heads, splits)](
        q, k, v, pages,
        length.to(q.device, non_blocking=True), row_map.to(q.device, non_blocking=True),
        o, lse, scale, softcap or 1.0,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        batch, heads, nodes, m_tiles, keys, share,
        PAGE=page_size, GROUP=group, DIM=dim, VALUE_DIM=value_dim, CAPPED=softcap is not None,
        ROWS=shape.rows, KEYS=shape.keys,
        WIDTH=tiles.power_of_two(dim), VALUE_WIDTH=tiles.power_of_two(value_dim),
        num_warps=shape.warps, num_stages=shape.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return (o[0], lse[0]) if splits == 1 else merge_splits(o, lse)


@triton.jit
def _gather(
    q, k, v, pages, length, row_map, o, lse, scale, softcap,
    q_b, q_h, q_n, k_r, k_h, k_c, v_r, v_h, v_c, batch, heads, nodes, m_tiles, slots, share,
    PAGE: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    CAPPED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // m_tiles).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    m = (tl.program_id(0) % m_tiles) * ROWS + tl.arange(0, ROWS)
    node = m // GROUP
    head = kv_head * GROUP + m % GROUP
    live = node < nodes
    row = tl.load(row_map + b).to(tl.int64)
    end = tl.load(length + row)
    d, dv, n = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH), tl.arange(0, KEYS)
    queries = tl.load(
        q + (b * q_b + head * q_h + node * q_n)[:, None] + d[None, :],
        mask=live[:, None] & (d < DIM)[None, :],
        other=0.0,
    )
    k += row * k_r + kv_head * k_h
    v += row * v_r + kv_head * v_h
    pages += (b * tl.num_programs(1) + kv_head) * (slots // PAGE)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)
    for start in range(split * share, tl.minimum(split * share + share, slots), KEYS):
        at = start + n
        page = tl.load(pages + at // PAGE, mask=at < slots, other=-1)
        c = page * PAGE + at % PAGE
        seen = (page >= 0) & (c < end)
        at_c = tl.where(seen, c, 0).to(tl.int64)
        keys = tl.load(
            k + at_c[None, :] * k_c + d[:, None],
            mask=seen[None, :] & (d < DIM)[:, None],
            other=0.0,
        )
        values = tl.load(
            v + at_c[:, None] * v_c + dv[None, :],
            mask=seen[:, None] & (dv < VALUE_DIM)[None, :],
            other=0.0,
        )
        s = scores(queries, keys, scale, softcap, CAPPED)
        s = tl.where(seen[None, :], s, float("-inf"))
        peak, total, acc = online(s, values, peak, total, acc)
    acc, logs = finish(peak, total, acc)
    slot = ((split * batch + b) * heads + head) * nodes + node
    tl.store(
        o + slot[:, None] * VALUE_DIM + dv[None, :],
        acc,
        mask=live[:, None] & (dv < VALUE_DIM)[None, :],
    )
    tl.store(lse + slot, logs, mask=live)
