"""weight_rows on a CPU: of blocks as stored number by number; NumPy gathers other panels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from specdec.kernels.cpu.jit import SERIAL, njit
from specdec.kernels.linear.packed_formats import Stored
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.stored.formats import BYTES, FORMATS, OUTPUTS

_NOWHERE = -1


def weight_rows(out: Tensor, weight: PanelWeight, rows: Tensor) -> Tensor:
    """See `specdec.kernels.linear.weight_rows`."""
    panels = weight.panels
    if not isinstance(panels, Stored):
        return out.copy_(weight.dense_rows(rows.numpy()))
    _fill(out.numpy(), panels.records, rows.numpy(), *_tables(panels.kind))
    return out


@functools.cache
def _tables(kind: int) -> tuple[Any, ...]:
    """Where a record of a format has what: for each input of a block the bytes of its code and
    their shifts, then sizes, what codes stand for, and all float16 numbers."""
    form = FORMATS[kind]
    places = np.empty((form.inputs, 4), np.int64)
    for i in range(form.inputs):
        step, byte = form.steps[i // BYTES], i % BYTES
        low, high = (word * OUTPUTS * BYTES + byte for word in (step.word, step.high))
        places[i] = low, step.shift, high, step.high_shift

    def offset(name: str) -> int:
        return form.offset(name) if name in (form.record.names or ()) else _NOWHERE

    low_bits = form.bits - form.high_bits
    sizes = np.array([
        form.record.itemsize, form.group, form.low_mask, low_bits, (1 << form.high_bits) - 1,
        offset("scale"), offset("scales"), form.has_minimum, offset("minimum"), offset("minima"),
    ])  # fmt: skip
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return places, sizes, form.code_values, halves


@njit(**SERIAL)
def _fill(out, records, rows, places, sizes, values, halves):
    """As `records.values` has it, operation for operation."""
    size, group, low_mask, low_bits, high_mask = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    scale_at, scales_at, minimum_at, minima_at = sizes[5], sizes[6], sizes[8], sizes[9]
    has_minimum = sizes[7] != 0
    inputs, block = out.shape[1], len(places)
    for n in range(len(rows)):
        column, lane = rows[n] // OUTPUTS, rows[n] % OUTPUTS
        for b in range(inputs // block):
            record = records[(column * (inputs // block) + b) * size :]
            at = scale_at + 2 * lane
            whole = halves[record[at] | np.int64(record[at + 1]) << 8]
            least = np.float32(0)
            if has_minimum:
                at = minimum_at + 2 * lane
                least = halves[record[at] | np.int64(record[at + 1]) << 8]
            for g in range(block // group):
                scale, minimum = whole, least
                if scales_at >= 0:
                    small = np.int64(record[scales_at + g * OUTPUTS + lane])
                    if not has_minimum and small > 127:
                        small -= 256
                    scale = whole * np.float32(small)
                if minima_at >= 0:
                    minimum = -(least * np.float32(record[minima_at + g * OUTPUTS + lane]))
                for i in range(g * group, (g + 1) * group):
                    code = record[places[i, 0] + BYTES * lane] >> places[i, 1] & low_mask
                    high = record[places[i, 2] + BYTES * lane] >> places[i, 3] & high_mask
                    value = values[code | high << low_bits] * scale
                    if has_minimum:
                        value += minimum
                    out[n, b * block + i] = value
