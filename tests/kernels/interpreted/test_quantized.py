"""The Triton kernels of quantised keys, values and labels, against their plain twins and float64.

See `test_attention.py`.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.kernels.cache import codes
from specdec.kernels.cache.quantize_kv import QuantizedKV, dequantize, quantize_kv
from specdec.kernels.gpu import tiles
from specdec.kernels.selection.label_scores import score_labels, update_labels

from helpers.triton_drawn import DEVICE, FEWER, LENGTHS, Drawn, best_of, near


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


@FEWER
@given(data=st.data())
def test_quantized_attention(data):
    """Built by both versions, within half a step; read by both, within PyTorch's own error."""
    d = Drawn(data)
    rows, bits, group = d.one_of(1, 2, 5), d.one_of(8, 4, 2), d.one_of(16, 8)
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


@FEWER
@given(data=st.data())
def test_four_bit_labels(data):
    """Built in two steps as a text grows, within half a step; scores as from dequantised labels."""
    d = Drawn(data)
    rows, count = d.one_of(1, 2, 5), d.one_of(6, 16)
    k, _, length = d.level(rows)
    q, row_map = d.normal(d.batch, d.heads, d.nodes, d.dim), d.row_map(rows)
    channels = torch.rand(rows, d.kv_heads, d.dim, generator=d.generator).argsort(-1)[..., :count]
    channels = channels.to(DEVICE, torch.int32)
    before = torch.minimum(length, torch.tensor(d.one_of(*LENGTHS), device=DEVICE))
    chosen = k.gather(-1, channels[:, :, None].long().expand(-1, -1, k.shape[2], -1))
    built = []
    for version in ("plain", "triton"):
        labels = torch.full((*k.shape[:3], count // 2), 255, dtype=torch.uint8, device=DEVICE)
        scales = k.new_full((*k.shape[:3], 2), torch.nan)
        for since, to in ((torch.zeros_like(length), before), (before, length)):
            getattr(update_labels, version)(
                labels, k, channels, since, to, tokens=k.shape[2], scales=scales
            )
        for row, end in enumerate(length.tolist()):
            step, low = scales[row, :, :end].double().split(1, dim=-1)
            restored = codes.unpack(labels[row, :, :end], 4).double() * step + low
            assert in_range(chosen[row, :, :end], restored, step, d.dtype)
            assert scales[row, :, end:].isnan().all() and (labels[row, :, end:] == 255).all()
        built.append((labels, scales))
    labels, scales = built[0]
    held = codes.unpack(labels[row_map.long()], 4)
    step, low = scales[row_map.long()].nan_to_num(0.0).split(1, dim=-1)

    def scores(dtype):
        places = channels[row_map.long(), :, None, None].long()
        places = places.expand(-1, -1, d.group, d.nodes, -1)
        asked = q.to(dtype).unflatten(1, (d.kv_heads, d.group)).gather(-1, places)
        keys = held.to(dtype) * step.to(dtype) + low.to(dtype)
        return best_of(asked @ keys[:, :, None].mT, length, row_map, 1)

    for version in ("plain", "triton"):
        got = getattr(score_labels, version)(q, labels, channels, length, row_map, scales)
        near(got, scores(d.dtype), scores(torch.float64), d.dtype)
