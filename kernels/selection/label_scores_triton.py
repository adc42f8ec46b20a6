"""label_scores on a GPU: a gather of channels into the labels, and scores of single keys."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu.codes import codes_of, span, store_halves
from specdec.kernels.selection.index_scores_triton import score

KEYS = 16


def update_labels(
    labels: Tensor,
    k: Tensor,
    channels: Tensor,
    since: Tensor,
    length: Tensor,
    *,
    tokens: int,
    scales: Tensor | None = None,
) -> None:
    """See `specdec.kernels.selection.label_scores`."""
    rows, kv_heads, _, _ = k.shape
    assert labels.is_contiguous() and channels.is_contiguous()
    assert scales is None or scales.is_contiguous()
    half = channels.shape[2] // 2
    _labels[(triton.cdiv(tokens, KEYS), kv_heads, rows)](
        labels, scales, k, channels,
        since.to(k.device, non_blocking=True), length.to(k.device, non_blocking=True),
        *k.stride(), labels.shape[2], tokens,
        HALF=half, KEYS=KEYS, WIDTH=triton.next_power_of_2(half),
        enable_fp_fusion=True,
    )  # fmt: skip


def score_labels(
    q: Tensor,
    labels: Tensor,
    channels: Tensor,
    length: Tensor,
    row_map: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """See `specdec.kernels.selection.label_scores`."""
    return score(q, labels, length, row_map, unit=1, channels=channels, scales=scales)


@triton.jit
def _labels(
    labels, scales, k, channels, since, length, k_r, k_h, k_c, k_d, capacity, tokens,
    HALF: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    begin = tl.load(since + row)
    end = tl.minimum(tl.minimum(tl.load(length + row), begin + tokens), capacity)
    c = begin + tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    at = c.to(tl.int64)
    label = tl.arange(0, WIDTH)
    held = (c < end)[:, None] & (label < HALF)[None, :]
    channels += (row * tl.num_programs(1) + kv_head) * 2 * HALF
    here = tl.load(channels + label, mask=label < HALF, other=0)
    there = tl.load(channels + HALF + label, mask=label < HALF, other=0)
    k += row * k_r + kv_head * k_h + at[:, None] * k_c
    low = tl.load(k + here[None, :] * k_d, mask=held, other=0.0)
    high = tl.load(k + there[None, :] * k_d, mask=held, other=0.0)
    token = (row * tl.num_programs(1) + kv_head) * capacity + at
    if scales is None:
        labels += token[:, None] * 2 * HALF + label[None, :]
        tl.store(labels, low, mask=held)
        tl.store(labels + HALF, high, mask=held)
    else:
        step, least = span(low, high, held, 4, 1)
        low, high = codes_of(low, step, least, 4), codes_of(high, step, least, 4)
        store_halves(labels, token[:, None] * HALF + label[None, :], low, high, held, HALF, 4)
        tl.store(scales + token[:, None] * 2, step, mask=(c < end)[:, None])
        tl.store(scales + token[:, None] * 2 + 1, least, mask=(c < end)[:, None])
