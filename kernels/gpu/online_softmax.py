"""Device functions of the attention kernels: one online softmax, in base 2, and its finish.

Scores are multiplied by log2(e) when they are made, because the hardware has exp2 only; `finish`
gives the natural-log lse. A row that has seen no key keeps m = -inf and l = 0 and ends as o = 0 and
lse = -inf; no exponent is ever -inf minus -inf. Dots are IEEE for float32 (TF32 has 10 bits).
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tanh(x):
    """tanh to float32 rounding: by exp2, and by its series where that would cancel."""
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
    far = tl.where(x < 0, e - 1.0, 1.0 - e) / (1.0 + e)
    s = x * x
    near = x * (1.0 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, near, far)


@triton.jit
def scores(q, k, scale, softcap, CAPPED: tl.constexpr):
    """Base-2 scores `[M, N]` of `q[M, D]` and `k[D, N]`."""
    s = tl.dot(q, k, input_precision="tf32x3") * scale
    if CAPPED:
        s = softcap * tanh(s / softcap)
    return s * LOG2E


@triton.jit
def online(s, v, m, total, acc):
    """Take keys with scores `s[M, N]` (-inf: not seen) and values `v[N, Dv]` into the state."""
    peak = tl.maximum(m, tl.max(s, 1))
    safe = tl.where(peak == float("-inf"), 0.0, peak)
    keep = tl.exp2(m - safe)
    p = tl.exp2(s - safe[:, None])
    total = total * keep + tl.sum(p, 1)
    acc = acc * keep[:, None] + tl.dot(p.to(v.dtype), v, input_precision="tf32x3")
    return peak, total, acc


@triton.jit
def finish(m, total, acc):
    """The state as (o, natural-log lse)."""
    some = tl.where(total > 0, total, 1.0)
    lse = tl.where(total > 0, (m + tl.log2(some)) * LN2, float("-inf"))
    return acc / some[:, None], lse
