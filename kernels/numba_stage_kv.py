"""stage_kv and commit_path on a CPU: one call for all rows of a layer."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.numba_options import SERIAL, njit


def stage_kv(
    keys: Tensor, values: Tensor, k: Tensor, v: Tensor, length: Tensor, rows: Tensor, *, at: int
) -> None:
    """See `specdec.kernels.stage_kv`."""
    _stage(keys.numpy(), values.numpy(), k.numpy(), v.numpy(), length.numpy(), rows.numpy(), at)


def commit_path(keys: Tensor, values: Tensor, path: Tensor, length: Tensor, rows: Tensor) -> None:
    """See `specdec.kernels.stage_kv`."""
    where = path.numpy(), length.numpy(), rows.numpy()
    _commit(keys.numpy(), *where)
    _commit(values.numpy(), *where)


@njit(**SERIAL)
def _stage(keys, values, k, v, length, rows, at):
    for b in range(len(rows)):
        start = length[rows[b]] + at
        count = min(k.shape[2], keys.shape[2] - start)
        for h in range(k.shape[1]):
            for i in range(count):
                for d in range(k.shape[3]):
                    keys[rows[b], h, start + i, d] = k[b, h, i, d]
                for d in range(v.shape[3]):
                    values[rows[b], h, start + i, d] = v[b, h, i, d]


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
