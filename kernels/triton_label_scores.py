"""label_scores on a GPU: a gather of channels into the labels, and scores of single keys."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.triton_scores import score

KEYS = 16


def update_labels(
    labels: Tensor, k: Tensor, channels: Tensor, since: Tensor, length: Tensor, *, tokens: int
) -> None:
    """See `specdec.kernels.label_scores`."""
    rows, kv_heads, _, _ = k.shape
    assert labels.is_contiguous() and channels.is_contiguous()
    _labels[(triton.cdiv(tokens, KEYS), kv_heads, rows)](
        labels, k, channels,
        since.to(k.device, non_blocking=True), length.to(k.device, non_blocking=True),
        *k.stride(), labels.shape[2], tokens,
        LABELS=labels.shape[3], KEYS=KEYS, WIDTH=triton.next_power_of_2(labels.shape[3]),
        enable_fp_fusion=True,
    )  # fmt: skip


def score_labels(
    q: Tensor, labels: Tensor, channels: Tensor, length: Tensor, row_map: Tensor
) -> Tensor:
    """See `specdec.kernels.label_scores`."""
    return score(q, labels, length, row_map, unit=1, channels=channels)


@triton.jit
def _labels(
    labels, k, channels, since, length, k_r, k_h, k_c, k_d, capacity, tokens,
    LABELS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    begin = tl.load(since + row)
    end = tl.minimum(tl.minimum(tl.load(length + row), begin + tokens), capacity)
    c = begin + tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    at = c.to(tl.int64)
    label = tl.arange(0, WIDTH)
    held = (c < end)[:, None] & (label < LABELS)[None, :]
    channel = tl.load(channels + kv_head * LABELS + label, mask=label < LABELS, other=0)
    chosen = tl.load(
        k + row * k_r + kv_head * k_h + at[:, None] * k_c + channel[None, :] * k_d, mask=held
    )
    labels += (row * tl.num_programs(1) + kv_head) * capacity * LABELS
    tl.store(labels + at[:, None] * LABELS + label[None, :], chosen, mask=held)
