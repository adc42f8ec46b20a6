"""stage_kv on a GPU: copies whose places only the GPU knows."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 16  # tokens of one program of stage_kv


def stage_kv(
    keys: Tensor, values: Tensor, k: Tensor, v: Tensor, length: Tensor, rows: Tensor, *, at: int
) -> None:
    """See `specdec.kernels.cache.stage_kv`."""
    batch, kv_heads, count, dim = k.shape
    value_dim = v.shape[-1]
    length, rows = (x.to(keys.device, non_blocking=True) for x in (length, rows))
    _stage[(triton.cdiv(count, BLOCK), kv_heads, batch)](
        keys, values, k, v, length, rows,
        *keys.stride(), *values.stride(), *k.stride(), *v.stride(), count, at, keys.shape[2],
        DIM=dim, VALUE_DIM=value_dim, BLOCK=BLOCK,
        WIDTH=triton.next_power_of_2(max(dim, value_dim)), enable_fp_fusion=True,
    )  # fmt: skip


def commit_path(keys: Tensor, values: Tensor, path: Tensor, length: Tensor, rows: Tensor) -> None:
    """See `specdec.kernels.cache.stage_kv`."""
    dim, value_dim = keys.shape[-1], values.shape[-1]
    batch, most = path.shape
    length, rows, path = (x.to(keys.device, non_blocking=True) for x in (length, rows, path))
    _commit[(batch, keys.shape[1])](
        keys, values, path.contiguous(), length, rows,
        *keys.stride(), *values.stride(), most,
        DIM=dim, VALUE_DIM=value_dim, WIDTH=triton.next_power_of_2(max(dim, value_dim)),
        num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def _stage(
    keys, values, k, v, length, rows,
    out_r, out_h, out_c, out_d, vout_r, vout_h, vout_c, vout_d,
    k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, count, at, capacity,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    row = tl.load(rows + b).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = (tl.load(length + row) + at + n).to(tl.int64)
    live = (n < count) & (slot < capacity)
    d = tl.arange(0, WIDTH)
    mask = live[:, None] & (d < DIM)[None, :]
    got = tl.load(k + b * k_b + h * k_h + n[:, None] * k_n + d[None, :] * k_d, mask=mask)
    to = row * out_r + h * out_h + slot[:, None] * out_c + d[None, :] * out_d
    tl.store(keys + to, got, mask=mask)
    mask = live[:, None] & (d < VALUE_DIM)[None, :]
    got = tl.load(v + b * v_b + h * v_h + n[:, None] * v_n + d[None, :] * v_d, mask=mask)
    to = row * vout_r + h * vout_h + slot[:, None] * vout_c + d[None, :] * vout_d
    tl.store(values + to, got, mask=mask)


@triton.jit
def _commit(
    keys, values, path, length, rows,
    k_r, k_h, k_c, k_d, v_r, v_h, v_c, v_d, most,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1)
    row = tl.load(rows + b).to(tl.int64)
    start = tl.load(length + row).to(tl.int64)
    d = tl.arange(0, WIDTH)
    keys += row * k_r + h * k_h + start * k_c + d * k_d
    values += row * v_r + h * v_h + start * v_c + d * v_d
    # A path increases, so slot path[j] >= j and no slot is overwritten before it has been read.
    for j in range(most):
        source = tl.load(path + b * most + j).to(tl.int64)
        held = d < tl.where(source >= 0, DIM, 0)
        value_held = d < tl.where(source >= 0, VALUE_DIM, 0)
        key = tl.load(keys + source * k_c, mask=held, other=0.0)
        value = tl.load(values + source * v_c, mask=value_held, other=0.0)
        tl.debug_barrier()
        tl.store(keys + j * k_c, key, mask=held)
        tl.store(values + j * v_c, value, mask=value_held)
        tl.debug_barrier()
