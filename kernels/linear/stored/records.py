"""From the blocks of a file to records, and from records to the values of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from specdec.kernels.linear.packed_formats import PANEL, Stored
from specdec.kernels.linear.stored.formats import FORMATS, KINDS, OUTPUTS, StoredFormat

Array = NDArray[Any]
_CHUNK = 1 << 22  # bytes of a file that are laid out at a time: the steps between take memory
_SIGNS = np.uint32(0x80808080)


def to_records(name: str, data: Array) -> Stored:
    """The rows of a tensor of type `name`, `uint8[rows, bytes]`, up to whole panels with zeros."""
    kind = KINDS[name]
    form = FORMATS[kind]
    blocks = np.ascontiguousarray(data).view(form.block)
    rows, count = blocks.shape
    columns = -(-rows // PANEL) * PANEL // OUTPUTS
    flat = torch.zeros(columns * count * form.record.itemsize, dtype=torch.uint8).numpy()
    records = flat.view(form.record).reshape(columns, count)
    step = max(1, _CHUNK // (OUTPUTS * data.shape[1]))
    for first in range(0, columns, step):
        part = blocks[first * OUTPUTS : (first + step) * OUTPUTS]
        _lay_out(form, part, records[first : first + step])
    return Stored(flat, kind)


def values(panels: Stored, inputs: int, columns: Any = slice(None)) -> Array:
    """The weights of some columns, `float32[outputs, inputs]`, rounded as GGUF's reference rounds
    them."""
    form = FORMATS[panels.kind]
    records = panels.records.view(form.record).reshape(-1, inputs // form.inputs)[columns]
    return _values(form, records).transpose(0, 3, 1, 2).reshape(-1, inputs)


def values_of_rows(panels: Stored, inputs: int, rows: Array) -> Array:
    """The weights of some outputs, `float32[len(rows), inputs]`: see `values`."""
    form = FORMATS[panels.kind]
    records = panels.records.view(form.record).reshape(-1, inputs // form.inputs)
    found = records[rows // OUTPUTS]  # with fifteen neighbours each
    lanes = (rows % OUTPUTS)[:, None, None]
    picked = np.zeros(found.shape, _one_lane(form))
    for name in form.record.names or ():
        field = found[name]
        where = lanes if field.ndim == 3 else lanes[..., None]
        picked[name] = np.take_along_axis(field, where, axis=-1)
    return _values(form, picked).reshape(len(rows), inputs)


def _one_lane(form: StoredFormat) -> np.dtype[Any]:
    """As a record, of one output."""
    fields = [(name, form.field(name)) for name in form.record.names or ()]
    kinds: list[Any] = [(name, kind.base, (*kind.shape[:-1], 1)) for name, kind in fields]
    return np.dtype(kinds)


def _lay_out(form: StoredFormat, blocks: Array, records: Array) -> None:
    """Fill `records[columns, count]` with `blocks[rows, count]`, rows up to whole columns."""
    rows = len(blocks)
    if missing := -rows % OUTPUTS:
        blocks = np.concatenate([blocks, np.zeros((missing, blocks.shape[1]), blocks.dtype)])
    records = records[: len(blocks) // OUTPUTS]

    def put(field: Array, values: Array) -> None:
        """`values[rows, count, ...]` as `field[columns, count, ..., OUTPUTS]`."""
        grouped = values.reshape(-1, OUTPUTS, *values.shape[1:])
        field[...] = np.moveaxis(grouped, 1, -1)

    start = 0
    for name in form.words:
        words = blocks[name]
        if form.name in ("Q5_0", "Q5_1") and name == "qh":
            words = _bits_by_byte(words)
        elif form.name == "Q8_0":
            words = words ^ _SIGNS
        put(records["words"][:, :, start : start + words.shape[-1]], words)
        start += words.shape[-1]
    if form.is_super:
        scales, minima = _small_scales(form, blocks)
        put(records["scales"], scales)
        if minima is not None:
            put(records["minima"], minima)
    put(records["scale"], blocks["d"])
    if form.has_minimum:
        put(records["minimum"], blocks["m"])


def _small_scales(form: StoredFormat, blocks: Array) -> tuple[Array, Array | None]:
    """Scales of groups, and their minima if there are any, a byte each."""
    if form.name == "Q6_K":
        return blocks["scales"], None
    if form.name == "IQ4_XS":
        low = blocks["low"][..., None] >> np.array([0, 4], np.uint8) & 15
        high = blocks["high"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
        low = low.reshape(high.shape)
        return (low | high.astype(np.uint8) << 4).astype(np.int8) - np.int8(32), None
    low, middle, high = np.split(blocks["scales"], 3, axis=-1)
    scales = np.concatenate([low & 63, high & 15 | low >> 2 & 48], axis=-1)
    minima = np.concatenate([middle & 63, high >> 4 | middle >> 2 & 48], axis=-1)
    return scales, minima


def _bits_by_byte(words: Array) -> Array:
    """Bit `4 k + i` of each word as bit k of its byte i."""
    out = np.zeros_like(words)
    for bit in range(32):
        out |= (words >> np.uint32(bit) & np.uint32(1)) << np.uint32(bit % 4 * 8 + bit // 4)
    return out


def _values(form: StoredFormat, records: Array) -> Array:
    """The weights of records `[columns, count]`: `float32[columns, count, inputs, lanes]`."""
    words = records["words"]
    codes = np.stack([_codes(form, words, j) for j in range(len(form.steps))], axis=2)
    codes = codes.reshape(*records.shape, form.groups, form.group, -1)
    out = form.code_values[codes]
    scale = records["scale"].astype(np.float32)[:, :, None]
    if form.is_super:
        scale = scale * records["scales"]
    out *= scale[:, :, :, None]
    if form.has_minimum:
        minimum = records["minimum"].astype(np.float32)[:, :, None]
        if form.is_super:
            minimum = -(minimum * records["minima"])
        out += minimum[:, :, :, None]
    return out.reshape(*records.shape, form.inputs, -1)


def _codes(form: StoredFormat, words: Array, j: int) -> Array:
    """The codes of step j: `uint8[columns, count, 4, lanes]`."""
    step = form.steps[j]

    def in_bytes(at: int) -> Array:
        lanes = np.ascontiguousarray(words[:, :, at])
        return np.moveaxis(lanes.view(np.uint8).reshape(*lanes.shape, 4), -1, -2)

    low = in_bytes(step.word) >> step.shift & form.low_mask
    if not form.high_bits:
        return low
    high = in_bytes(step.high) >> step.high_shift & ((1 << form.high_bits) - 1)
    return low | high << (form.bits - form.high_bits)
