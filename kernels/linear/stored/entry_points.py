"""What a product with stored blocks calls by address: rounding, and the products of a format."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from specdec.kernels.cpu.jit import INNER, njit
from specdec.kernels.linear.packed_formats import Stored
from specdec.kernels.linear.stored.formats import FORMATS, Rounding
from specdec.kernels.linear.stored.products import stored_products
from specdec.kernels.linear.stored.rounded_inputs import rounded

WORDS = np.empty(0, np.int32)  # what they take their input in


class Functions(NamedTuple):
    """For tiles of one height."""

    prepare: Any  # as `gemm.prepare_inputs.prepared`
    product: Any  # as `gemm.thread_shares.panel_product`


def functions_of(panels: Stored, height: int) -> Functions:
    """The functions of a format; those that round alike share one."""
    kind, rows = panels.kind, (0,) * height
    rounding = FORMATS[kind].rounding
    if (rounding, height) not in _roundings:
        _roundings[rounding, height] = _rounding(*rounding, rows)
    if (kind, height) not in _products:
        _products[kind, height] = _product(kind, rows)
    return Functions(_roundings[rounding, height], _products[kind, height])


_roundings: dict[tuple[Rounding, int], Any] = {}
_products: dict[tuple[int, int], Any] = {}


def _rounding(block: int, group: int, zero: int, tile: tuple[int, ...]) -> Any:
    @njit(**INNER)
    def prepare(panels, x, rows, inputs):
        ready = rounded(x, rows, inputs, block, group, zero, tile)
        return ready, np.empty(0, np.float32)

    return prepare


def _product(kind: int, tile: tuple[int, ...]) -> Any:
    @njit(**INNER)
    def product(panels, panel, x, sums, row, inputs, rows):
        return stored_products(kind, panels.records, panel, x, row, inputs, tile)

    return product
