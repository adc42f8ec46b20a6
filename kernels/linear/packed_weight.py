"""PanelWeight: a weight matrix in panels, made from a dense one or from quantised blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.linear.packed_formats import (
    COLUMN,
    PANEL,
    WORD,
    BFloat16,
    Float16,
    Float32,
    Int4Affine,
    Int8,
    Int8Affine,
    Panels,
    Stored,
)
from specdec.kernels.linear.stored.formats import FORMATS
from specdec.kernels.linear.stored.records import to_records, values, values_of_rows
from specdec.kernels.linear.stored.rounding import rounded_values

_SHIFTS = np.arange(0, 4 * WORD, 4, dtype=np.uint32)[:, None]
GROUP = 32  # inputs that share a scale, where we quantise ourselves


@dataclass(frozen=True)
class PanelWeight:
    """A weight `[outputs, inputs]` as `panels`, with zeros up to whole panels of outputs."""

    outputs: int
    inputs: int
    panels: Panels

    @property
    def format(self) -> str:
        """Name of the storage format, such as "bfloat16", "int4affine" or "q4_k"."""
        if isinstance(self.panels, Stored):
            return FORMATS[self.panels.kind].name.lower()
        return type(self.panels).__name__.lower()

    @property
    def is_stored(self) -> bool:
        """Whether it is in blocks as stored, and multiplied with activations in 8 bits."""
        return isinstance(self.panels, Stored)

    def seen(self, x: Tensor) -> Tensor:
        """What stands for `x[..., inputs]` in products: x itself, or what it is rounded to."""
        if not isinstance(self.panels, Stored):
            return x
        return rounded_values(x, FORMATS[self.panels.kind].inputs)

    @property
    def nbytes(self) -> int:
        """Bytes that a pass reads."""
        return sum(x.nbytes for x in self.panels if isinstance(x, np.ndarray))

    def dense(self) -> Tensor:
        """The weight as float32 `[outputs, inputs]`, a copy: codes times scales plus minima."""
        p = self.panels
        dense = values(p, self.inputs) if isinstance(p, Stored) else _floats(p, self.inputs)
        return torch.from_numpy(np.ascontiguousarray(dense[: self.outputs]))

    def dense_rows(self, rows: NDArray[Any]) -> Tensor:
        """Some of its rows, as in `dense`: `float32[len(rows), inputs]`."""
        p = self.panels
        if isinstance(p, Stored):
            return torch.from_numpy(values_of_rows(p, self.inputs, rows))
        columns, lanes = np.divmod(rows, COLUMN)
        of_one: list[Any] = [
            np.ascontiguousarray(_in_columns(x, self.outputs)[columns, :, lanes]).reshape(-1)
            if isinstance(x, np.ndarray) else x
            for x in p
        ]  # fmt: skip
        return torch.from_numpy(_floats(type(p)(*of_one), self.inputs, lanes=1))

    def rows(self, start: int, stop: int) -> PanelWeight:
        """Outputs `start .. stop`, sharing memory where they begin and end between panels."""
        if start % PANEL or (stop % PANEL and stop != self.outputs):
            return pack(self.dense()[start:stop])
        first, last, count = start // PANEL, -(-stop // PANEL), -(-self.outputs // PANEL)
        parts: list[Any] = [
            x.reshape(count, -1)[first:last].reshape(-1) if isinstance(x, np.ndarray) else x
            for x in self.panels
        ]
        return PanelWeight(stop - start, self.inputs, type(self.panels)(*parts))


def pack(weight: Tensor) -> PanelWeight:
    """A float weight in the narrowest of bfloat16, float16 and float32 that holds its exact values.

    So a bfloat16 checkpoint that was loaded as float32 is read at half the bytes.
    """
    w = weight.detach().to(torch.float32).contiguous().numpy()
    bits = w.view(np.uint32)
    panels: Panels
    if not (bits & 0xFFFF).any():
        panels = BFloat16(_to_columns((bits >> 16).astype(np.uint16)))
    elif (half := _exact_half(w)) is not None:
        panels = Float16(_to_columns(half.view(np.uint16)))
    else:
        panels = Float32(_to_columns(w))
    return PanelWeight(w.shape[0], w.shape[1], panels)


def pack_halves(bits: NDArray[Any], kind: type[BFloat16] | type[Float16]) -> PanelWeight:
    """A weight in 16 bits as it is; bits: `uint16[out, in]`, those of bfloat16 or float16."""
    return PanelWeight(bits.shape[0], bits.shape[1], kind(_to_columns(bits)))


def pack_groups(
    codes: NDArray[Any], scale: NDArray[Any], minimum: NDArray[Any] | None, bits: int
) -> PanelWeight:
    """A quantised weight: `codes[out, in]` times `scale[out, groups]`, plus `minimum` or not.

    bits: 4 for codes 0..15 (which take a minimum), 8 for codes -128..127; 4 bits are kept as 8
    where groups are no multiple of 8. Scales and minima are float32 or float16 and kept so.
    """
    inputs, group = codes.shape[1], codes.shape[1] // scale.shape[1]
    scales = _to_columns(_stored(scale))
    panels: Panels
    if bits == 4 and group % WORD == 0:
        assert minimum is not None
        codes = codes.astype(np.uint8, copy=False)
        words = (codes[:, ::2] | codes[:, 1::2] << 4).view("<u4")  # the first input lowest
        panels = Int4Affine(_to_columns(words), scales, _to_columns(_stored(minimum)), group)
    elif minimum is not None:
        panels = Int8Affine(
            _to_columns(codes.astype(np.int8)), scales, _to_columns(_stored(minimum)), group
        )
    else:
        panels = Int8(_to_columns(codes.astype(np.int8)), scales, group)
    return PanelWeight(codes.shape[0], inputs, panels)


def pack_stored(name: str, data: NDArray[Any]) -> PanelWeight:
    """A weight in blocks of a GGUF, of one of `stored.formats.KINDS`; data: `uint8[out, bytes]`."""
    panels = to_records(name, data)
    form = FORMATS[panels.kind]
    inputs = data.shape[1] // form.block.itemsize * form.inputs
    return PanelWeight(len(data), inputs, panels)


def quantise(weight: Tensor, bits: int) -> PanelWeight:
    """A copy of a float weight in 8 bits (symmetric) or 4 bits (affine), by groups of inputs.

    Round to nearest, a float16 scale for each group of 32 inputs (of all inputs where they are no
    multiple of 32): for drafting, where an error costs acceptance and nothing else.
    """
    w = weight.detach().to(torch.float32)
    inputs = w.shape[1]
    groups = w.unflatten(1, (-1, GROUP if inputs % GROUP == 0 else inputs))
    if bits == 8:
        scale = (groups.abs().amax(2) / 127).half()
        codes = (groups / _nonzero(scale)).round().clamp(-127, 127)
        return pack_groups(codes.flatten(1).numpy(), scale.numpy(), None, 8)
    low, high = groups.aminmax(dim=2)
    scale, minimum = ((high - low) / 15).half(), low.half()
    codes = ((groups - minimum.float()[..., None]) / _nonzero(scale)).round().clamp(0, 15)
    return pack_groups(codes.flatten(1).numpy(), scale.numpy(), minimum.numpy(), 4)


def _nonzero(scale: Tensor) -> Tensor:
    return scale.float().masked_fill(scale == 0, 1.0)[..., None]


def _exact_half(w: NDArray[Any]) -> NDArray[Any] | None:
    with np.errstate(over="ignore"):
        half = w.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), w) else None


def _stored(scale: NDArray[Any]) -> NDArray[Any]:
    """Scales as the kernels take them: float32, or the bits of float16."""
    return scale.view(np.uint16) if scale.dtype == np.float16 else scale.astype(np.float32)


def _to_columns(x: NDArray[Any]) -> NDArray[Any]:
    """`[out, n]` as `[columns, n, COLUMN]`, flat, with rows of zeros up to a whole panel."""
    missing = -len(x) % PANEL
    if missing:
        x = np.concatenate([x, np.zeros((missing, x.shape[1]), x.dtype)])
    return np.ascontiguousarray(x.reshape(-1, COLUMN, x.shape[1]).transpose(0, 2, 1)).reshape(-1)


def _in_columns(x: NDArray[Any], outputs: int) -> NDArray[Any]:
    """What `_to_columns` made, as `[columns, n, COLUMN]`."""
    return x.reshape(-(-outputs // PANEL) * PANEL // COLUMN, -1, COLUMN)


def _floats(p: Panels, inputs: int, lanes: int = COLUMN) -> NDArray[Any]:
    """The weights of columns of so many outputs, rows of zeros included, `float32[out, inputs]`."""
    if isinstance(p, Float32):
        return _from_columns(p.weights, inputs, lanes)
    if isinstance(p, BFloat16):
        bits = _from_columns(p.weights, inputs, lanes).astype(np.uint32) << 16
        return bits.view(np.float32)
    if isinstance(p, Float16):
        return _from_columns(p.weights, inputs, lanes).view(np.float16).astype(np.float32)
    assert not isinstance(p, Stored)
    if isinstance(p, Int4Affine):
        words = p.codes.reshape(-1, inputs // WORD, 1, lanes)
        each = words >> _SHIFTS & 15
        codes = _from_columns(each.astype(np.uint8).reshape(-1), inputs, lanes)
    else:
        codes = _from_columns(p.codes, inputs, lanes)
    grouped = codes.reshape(len(codes), -1, p.group).astype(np.float32)
    dense = grouped * _scales(p.scale, grouped.shape[1], lanes)
    if not isinstance(p, Int8):
        dense += _scales(p.minimum, grouped.shape[1], lanes)
    return dense.reshape(codes.shape)


def _from_columns(x: NDArray[Any], n: int, lanes: int = COLUMN) -> NDArray[Any]:
    """The inverse of `_to_columns`, rows of zeros included."""
    rows = x.reshape(-1, n, lanes).transpose(0, 2, 1)
    return np.ascontiguousarray(rows).reshape(-1, n)


def _scales(x: NDArray[Any], groups: int, lanes: int) -> NDArray[Any]:
    """`[out, groups, 1]`, float32."""
    rows = _from_columns(x, groups, lanes)
    if rows.dtype == np.uint16:
        rows = rows.view(np.float16)
    return rows.astype(np.float32)[..., None]
