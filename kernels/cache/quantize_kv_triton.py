"""quantize_kv on a GPU: one program per (group of tokens, kv head, row)."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.cache.quantize_kv import QuantizedKV
from specdec.kernels.cache.quantize_kv import quantize_kv as op
from specdec.kernels.gpu.codes import encode, store_halves

CHANNELS = 16  # of a key that a program has in hand, twice


def quantize_kv(
    k: Tensor, v: Tensor, into: QuantizedKV, since: Tensor, length: Tensor, *, groups: int
) -> None:
    """See `specdec.kernels.cache.quantize_kv`; 2 bits run in PyTorch.

    Four codes of a byte belong to both halves of two groups there, and a group is written once.
    """
    if into.bits == 2:
        op.plain(k, v, into, since, length, groups=groups)
        return
    rows, kv_heads, _, _ = k.shape
    assert all(x.is_contiguous() for x in into) and k.stride(-1) == v.stride(-1) == 1
    _quantize[(groups, kv_heads, rows)](
        k, v, *into, since.to(k.device, non_blocking=True), length.to(k.device, non_blocking=True),
        *k.stride()[:3], *v.stride()[:3], into.k_scales.shape[2],
        BITS=into.bits, GROUP=into.group, HALF=into.dim // 2, VALUE_HALF=into.value_dim // 2,
        VALUE_GROUP=into.value_group, TOKENS=triton.next_power_of_2(into.group),
        CHANNELS=CHANNELS, VALUE_WIDTH=triton.next_power_of_2(into.value_group),
        num_warps=8 if into.group > 64 else 4, enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def _quantize(
    k, v, k_codes, k_scales, v_codes, v_scales, since, length,
    k_r, k_h, k_c, v_r, v_h, v_c, groups,
    BITS: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr, VALUE_HALF: tl.constexpr,
    VALUE_GROUP: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    group = tl.load(since + row) // GROUP + tl.program_id(0)
    if group >= tl.minimum(tl.load(length + row) // GROUP, groups):
        return
    place = row * tl.num_programs(1) + kv_head
    inside = tl.arange(0, TOKENS)
    t = group.to(tl.int64) * GROUP + inside
    here = (inside < GROUP)[:, None]
    k += row * k_r + kv_head * k_h + t[:, None] * k_c
    v += row * v_r + kv_head * v_h + t[:, None] * v_c
    token = place * groups * GROUP + t[:, None]

    scales = k_scales + (place * groups + group) * 4 * HALF
    code_bytes: tl.constexpr = HALF * BITS // 4
    for start in tl.static_range(0, HALF, CHANNELS):
        d = (start + tl.arange(0, CHANNELS))[None, :]
        held = here & (d < HALF)
        low, low_step, low_least = encode(tl.load(k + d, mask=held, other=0.0), held, BITS, 0)
        high, high_step, high_least = encode(
            tl.load(k + HALF + d, mask=held, other=0.0), held, BITS, 0
        )
        store_halves(k_codes, token * code_bytes + d, low, high, held, HALF, BITS)
        tl.store(scales + d, low_step, mask=d < HALF)
        tl.store(scales + HALF + d, high_step, mask=d < HALF)
        tl.store(scales + 2 * HALF + d, low_least, mask=d < HALF)
        tl.store(scales + 3 * HALF + d, high_least, mask=d < HALF)

    value_bytes: tl.constexpr = VALUE_HALF * BITS // 4
    parts: tl.constexpr = VALUE_HALF // VALUE_GROUP  # of half a head
    for part in tl.static_range(parts):
        d = tl.arange(0, VALUE_WIDTH)[None, :]
        held = here & (d < VALUE_GROUP)
        at = part * VALUE_GROUP + d
        low, low_step, low_least = encode(tl.load(v + at, mask=held, other=0.0), held, BITS, 1)
        high, high_step, high_least = encode(
            tl.load(v + VALUE_HALF + at, mask=held, other=0.0), held, BITS, 1
        )
        store_halves(v_codes, token * value_bytes + at, low, high, held, VALUE_HALF, BITS)
        scales = v_scales + token * 4 * parts + part
        tl.store(scales, low_step, mask=here)
        tl.store(scales + parts, high_step, mask=here)
        tl.store(scales + 2 * parts, low_least, mask=here)
        tl.store(scales + 3 * parts, high_least, mask=here)
