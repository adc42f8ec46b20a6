"""stage_kv: write a pass's keys and values behind what is committed, and keep the accepted ones.

On a GPU both read lengths and paths there, so a round needs no word from the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def stage_kv(
    keys: Tensor, values: Tensor, k: Tensor, v: Tensor, length: Tensor, rows: Tensor, *, at: int
) -> None:
    """Write, in place, `k, v: [B, Hkv, n, D]` to slots `length + at ...` of rows `rows: int32[B]`.

    keys, values: `[R, Hkv, C, D]`, one layer of a level; length: `int32[R]`; no row twice. What
    would lie behind the capacity is dropped: the caller has made sure that nothing does.
    """
    capacity = keys.shape[2]
    for i, row in enumerate(rows.tolist()):
        start = int(length[row]) + at
        count = max(0, min(k.shape[2], capacity - start))
        keys[row, :, start : start + count] = k[i, :, :count]
        values[row, :, start : start + count] = v[i, :, :count]


@dispatched
def commit_path(keys: Tensor, values: Tensor, path: Tensor, length: Tensor, rows: Tensor) -> None:
    """Move, in place, the staged slots of each path together, behind the length of their row.

    path: `int32[B, J]`, staged slots, strictly increasing, padded with -1; staged slot j lies at
    `length[rows[b]] + j`. The lengths are not changed, because every layer needs the old ones.
    """
    for sequence, row in zip(path.tolist(), rows.tolist(), strict=True):
        start = int(length[row])
        kept = torch.tensor([start + j for j in sequence if j >= 0], device=keys.device).long()
        for buffer in (keys, values):
            buffer[row, :, start : start + len(kept)] = buffer[row][:, kept]
