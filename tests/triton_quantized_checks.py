"""The Triton kernels of quantised keys, values and labels, against their plain twins and float64.

Not collected by itself: see `triton_checks.py`.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_drawn import DEVICE, EXAMPLES, LENGTHS, Drawn, near

from specdec.kernels import tiles
from specdec.kernels.quantize_kv import QuantizedKV, dequantize, quantize_kv
from specdec.kernels.quantized_attention import quantized_attention


def grown(kv, k, v, length, d, version):
    """The copy of a level built in two steps, as a text grows; what is not written is NaN."""
    for scales in (kv.k_scales, kv.v_scales):
        scales.fill_(torch.nan)
    before = torch.minimum(length, torch.tensor(d, dtype=torch.int32, device=DEVICE))
    most = -(-k.shape[2] // kv.group)
    for since, to in ((torch.zeros_like(length), before), (before, length)):
        getattr(quantize_kv, version)(k, v, kv, since, to, groups=most)
    return kv


def in_range(original, restored, scales_step, dtype):
    """No further than half a step, and what rounding step and low costs."""
    slack = 0.5 + 300 * torch.finfo(dtype).eps
    error = (original.double() - restored.double()).abs()
    return (error <= slack * scales_step.double() + 4 * torch.finfo(dtype).eps * 8).all()


@EXAMPLES
@given(data=st.data())
def test_quantized_attention(data):
    """Built by both versions, within half a step; read by both, within PyTorch's own error."""
    d = Drawn(data)
    rows, bits, group = d.one_of(1, 2, 5), d.one_of(8, 4), d.one_of(16, 8)
    k, v, length = d.level(rows)
    row_map = d.row_map(rows)
    q = d.normal(d.batch, d.heads, d.nodes, d.dim)
    between = d.one_of(*LENGTHS)
    copies = []
    for version in ("plain", "triton"):
        kv = QuantizedKV.empty(k, v, bits, group)
        assert (kv.bits, kv.group, kv.dim, kv.value_dim) == (bits, group, d.dim, d.value_dim)
        copies.append(grown(kv, k, v, length, between, version))
    covered = length // group * group
    plain, ours = copies
    for row, end in enumerate(covered.tolist()):
        for kv in copies:
            keys, values = dequantize(kv, row, end)
            step = kv.k_scales[row, :, : end // group, 0].repeat_interleave(group, dim=1)
            assert in_range(k[row, :, :end], keys, step, d.dtype)
            step = kv.v_scales[row, :, :end, 0].repeat_interleave(kv.value_group, dim=-1)
            assert in_range(v[row, :, :end], values, step, d.dtype)
        for part, other in zip(plain, ours):
            per = group if part is plain.k_scales else 1
            torch.testing.assert_close(
                part[row, :, : end // per].float(), other[row, :, : end // per].float(),
                rtol=1e-3, atol=1.0 if part.dtype == torch.uint8 else 1e-6,
            )  # fmt: skip
    whole = torch.zeros(rows, d.kv_heads, max(LENGTHS), d.dim, dtype=d.dtype, device=DEVICE)
    read = [whole, torch.zeros_like(whole[..., :1]).expand(-1, -1, -1, d.value_dim).clone()]
    for row, end in enumerate(covered.tolist()):
        for to, x in zip(read, dequantize(plain, row, end)):
            to[row, :, :end] = x
    slots = torch.arange(max(LENGTHS), device=DEVICE)
    visible = slots < covered[row_map.long()][:, None, None]
    visible = visible.expand(-1, d.nodes, -1)
    for op in (quantized_attention.plain, quantized_attention.triton):
        got = op(q, plain, covered, row_map, scale=d.scale, softcap=d.softcap)
        d.compare(got, q, read[0][row_map.long()], read[1][row_map.long()], visible)


def test_quantized_attention_in_splits():
    """A level long enough to be cut among programs, some of which have nothing to read."""
    torch.manual_seed(0)
    k, v = (torch.randn(2, 1, 4 * tiles.MIN_SPLIT, 16).to(DEVICE) for _ in range(2))
    kv = QuantizedKV.empty(k, v, 4, 32)
    length = torch.tensor([32, 3 * tiles.MIN_SPLIT + 32], dtype=torch.int32, device=DEVICE)
    quantize_kv.triton(k, v, kv, torch.zeros_like(length), length, groups=kv.k_scales.shape[2])
    q = torch.randn(2, 3, 2, 16).to(DEVICE)
    row_map = torch.arange(2, dtype=torch.int32, device=DEVICE)
    want = quantized_attention.plain(q, kv, length, row_map, scale=0.25)
    got = quantized_attention.triton(q, kv, length, row_map, scale=0.25)
    for ours, plain in zip(got, want):
        near(ours, plain, plain.double(), torch.float32)
