"""prefix_attention on a GPU: packed queries, split keys, nothing read on the host.

One program is (tile of packed queries, kv head, split of the keys). A tile's rows are
(sequences that share the row) x nodes x (query heads of the kv head), so a key is loaded once for
all of them. The split's length follows the row's own `length`, which only the GPU knows; the number
of splits follows the capacity.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.attention.members_triton import members as find_members
from specdec.kernels.attention.merge_triton import merge_splits
from specdec.kernels.gpu import tiles
from specdec.kernels.gpu.online_softmax import LOG2E, finish, online, scores


def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    first: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.prefix_attention`."""
    batch, heads, nodes, dim = q.shape
    rows, kv_heads, capacity, value_dim = v.shape
    row_map = row_map.to(q.device, non_blocking=True)
    packed, per_tile, groups = packing(row_map, rows, nodes * heads // kv_heads)
    together = per_tile * nodes * heads // kv_heads
    shape = tiles.tile(together, dim, value_dim, k.element_size())
    splits = tiles.split_count(
        programs=groups * triton.cdiv(together, shape.rows) * kv_heads,
        keys=capacity,
        rows=together,
        dim=dim,
        value_dim=value_dim,
        itemsize=k.element_size(),
        processors=tiles.processors(q.device),
    )
    return launch(
        q, k, v, length.to(q.device, non_blocking=True), row_map, packed, groups, per_tile,
        None if first is None else first.to(q.device).contiguous(), scale, softcap, shape, splits,
        tiles.MIN_SPLIT, None if bias is None else bias.to(q.device).float().contiguous(),
    )  # fmt: skip


def packing(row_map: Tensor, rows: int, width: int) -> tuple[Tensor | None, int, int]:
    """(members or None for the batch's order, sequences per tile, groups) for `width` queries each.

    Sequences share a tile where there are fewer rows than sequences, so that some must share a row.
    """
    batch = row_map.shape[0]
    if rows == 1:
        return None, batch, 1
    per_tile = min(batch, max(1, 128 // width))
    if rows >= batch or per_tile == 1:
        return None, 1, batch
    packed = find_members(row_map, rows=rows, per_tile=per_tile)
    return packed, per_tile, packed.shape[0]


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    row_map: Tensor,
    packed: Tensor | None,
    groups: int,
    per_tile: int,
    first: Tensor | None,
    scale: float,
    softcap: float | None,
    shape: tiles.Tile,
    splits: int,
    min_split: int,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """prefix_attention with a given packing and number of splits, all tensors on one device."""
    batch, heads, nodes, dim = q.shape
    kv_heads, value_dim = v.shape[1], v.shape[3]
    group = heads // kv_heads
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    o = q.new_empty(splits, batch, heads, nodes, value_dim, dtype=torch.float32)
    lse = q.new_empty(splits, batch, heads, nodes, dtype=torch.float32)
    m_tiles = triton.cdiv(per_tile * nodes * group, shape.rows)
    _prefix[(groups * m_tiles, kv_heads, splits)](
        q, k, v, o, lse, length, row_map, packed, first, bias, scale, softcap or 1.0,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        0 if first is None else first.stride(0),
        batch, heads, nodes, per_tile, m_tiles, triton.cdiv(min_split, shape.keys), v.shape[2],
        GROUP=group, DIM=dim, VALUE_DIM=value_dim, SPLIT=splits > 1, CAPPED=softcap is not None,
        ROWS=shape.rows, KEYS=shape.keys,
        WIDTH=tiles.power_of_two(dim), VALUE_WIDTH=tiles.power_of_two(value_dim),
        num_warps=shape.warps, num_stages=shape.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return (o[0], lse[0]) if splits == 1 else merge_splits(o, lse)


@triton.jit
def _prefix(
    q, k, v, o, lse, length, row_map, packed, first, bias, scale, softcap,
    q_b, q_h, q_n, k_r, k_h, k_c, v_r, v_h, v_c, first_b,
    batch, heads, nodes, per_tile, m_tiles, min_blocks, capacity,
    GROUP: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr, SPLIT: tl.constexpr,
    CAPPED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0) // m_tiles
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    # Row of the tile -> (sequence, node, head), the heads of a group fastest.
    m = (tl.program_id(0) % m_tiles) * ROWS + tl.arange(0, ROWS)
    place = m // (nodes * GROUP)
    node = m // GROUP % nodes
    head = kv_head * GROUP + m % GROUP
    if packed is None:
        lead = group * per_tile
        b = tl.where((place < per_tile) & (lead + place < batch), lead + place, -1)
    else:
        lead = tl.load(packed + group * per_tile)
        b = tl.load(packed + group * per_tile + place, mask=place < per_tile, other=-1)
    if tl.max(b, 0) < 0:
        return
    live = b >= 0
    b = tl.where(live, b, 0).to(tl.int64)

    row = tl.load(row_map + lead).to(tl.int64)
    end = tl.load(length + row)
    begin = 0
    if first is not None:
        sees = tl.load(first + b * first_b + node, mask=live, other=2147483647)
        sees = tl.minimum(tl.maximum(sees, 0), end).to(tl.int32)
        begin = tl.min(sees, 0)
    blocks = tl.cdiv(end - begin, KEYS)
    share = tl.maximum(tl.cdiv(blocks, tl.num_programs(2)), min_blocks) * KEYS
    low = begin + split * share
    high = tl.minimum(low + share, end)
    slot = ((split * batch + b) * heads + head) * nodes + node
    if SPLIT and low >= high:
        tl.store(lse + slot, tl.full([ROWS], float("-inf"), tl.float32), mask=live)
        return

    d, dv, n = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH), tl.arange(0, KEYS)
    at = b * q_b + head * q_h + node * q_n
    queries = tl.load(
        q + at[:, None] + d[None, :], mask=live[:, None] & (d < DIM)[None, :], other=0.0
    )
    k += row * k_r + kv_head * k_h
    v += row * v_r + kv_head * v_h
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)
    for key in range(low, high, KEYS):
        c = key + n
        at_c = c.to(tl.int64)
        keys = tl.load(
            k + at_c[None, :] * k_c + d[:, None],
            mask=(c < high)[None, :] & (d < DIM)[:, None],
            other=0.0,
        )
        values = tl.load(
            v + at_c[:, None] * v_c + dv[None, :],
            mask=(c < high)[:, None] & (dv < VALUE_DIM)[None, :],
            other=0.0,
        )
        s = scores(queries, keys, scale, softcap, CAPPED)
        if bias is not None:
            added = tl.load(
                bias + (row * (heads // GROUP) + kv_head) * capacity + at_c,
                mask=c < high,
                other=0.0,
            )
            s += added[None, :] * LOG2E
        seen = (c < high)[None, :]
        if first is not None:
            seen = seen & (c[None, :] >= sees[:, None])
        s = tl.where(seen, s, float("-inf"))
        peak, total, acc = online(s, values, peak, total, acc)
    acc, logs = finish(peak, total, acc)
    tl.store(
        o + slot[:, None] * VALUE_DIM + dv[None, :],
        acc,
        mask=live[:, None] & (dv < VALUE_DIM)[None, :],
    )
    tl.store(lse + slot, logs, mask=live)
