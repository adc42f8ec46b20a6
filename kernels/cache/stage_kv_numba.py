"""stage_kv and commit_path on a CPU: one call for all rows of a layer."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.cpu.jit import SERIAL, inner, njit
from specdec.kernels.linear.row_ops_numba import copied


def stage_kv(
    keys: Tensor, values: Tensor, k: Tensor, v: Tensor, length: Tensor, rows: Tensor, *, at: int
) -> None:
    """See `specdec.kernels.cache.stage_kv`."""
    capacity, staging = keys.shape[2], (length.numpy(), rows.numpy(), at)
    for buffer, fresh in ((keys, k), (values, v)):  # a view: a copy of the buffer would be lost
        flat = fresh.contiguous().numpy().reshape(-1)
        _stage(flat, buffer.view(-1).numpy(), tuple(fresh.shape), capacity, staging)


def commit_path(keys: Tensor, values: Tensor, path: Tensor, length: Tensor, rows: Tensor) -> None:
    """See `specdec.kernels.cache.stage_kv`."""
    where = path.numpy(), length.numpy(), rows.numpy()
    _commit(keys.numpy(), *where)
    _commit(values.numpy(), *where)


@njit(**SERIAL)
def _stage(x, buffer, shape, capacity, staging):
    stage_rows(x, buffer, shape, capacity, staging)


@inner
def stage_rows(x, buffer, shape, capacity, staging):
    """Write `x[B, Hkv, n, D]` to `buffer[R, Hkv, capacity, D]`, both flat, as far as there is room.

    staging: (length, rows, at), as in `stage_kv`.
    """
    batch, heads, nodes, dim = shape
    length, rows, at = staging
    for b in range(batch):
        start = length[rows[b]] + at
        size = max(0, min(nodes, capacity - start)) * dim
        for head in range(heads):
            to = ((rows[b] * heads + head) * capacity + start) * dim
            copied(x, (b * heads + head) * nodes * dim, buffer, to, size)


@njit(**SERIAL)
def _commit(buffer, path, length, rows):
    heads, dim = buffer.shape[1], buffer.shape[3]
    for b in range(len(rows)):
        start = length[rows[b]]
        for h in range(heads):
            for i in range(path.shape[1]):
                slot = path[b, i]
                if slot >= 0 and slot != i:  # in order: a slot is read before it is written
                    for d in range(dim):
                        buffer[rows[b], h, start + i, d] = buffer[rows[b], h, start + slot, d]
