"""The addresses of what a matrix product does, by storage format and height of its tiles.

A kernel that calls its products by address compiles once for all heights, and is linked with none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from specdec.kernels.cpu.function_pointers import address_of, call_pointer
from specdec.kernels.cpu.jit import INNER, njit
from specdec.kernels.cpu.registers import TILE_HEIGHTS
from specdec.kernels.linear.gemm.prepare_inputs import prepared
from specdec.kernels.linear.gemm.thread_shares import (
    dense_share,
    gated_share,
    panel_product,
    product_share,
)
from specdec.kernels.linear.packed_formats import Float32, Panels, Stored
from specdec.kernels.linear.stored import entry_points as stored


class Calls(NamedTuple):
    """Addresses, for panels of one format and tiles of one height."""

    prepare: int
    product: int  # of `panel_product`
    share: int


class Functions(NamedTuple):
    """What there is for tiles of one height; its types do not tell which."""

    prepare: Any  # `prepared`
    share: Any  # `product_share`
    gated: Any  # `gated_share`
    prepare_dense: Any  # as `prepare` and `share`, for panels that are dequantised before
    share_dense: Any


def calls_of(panels: Panels, height: int, dense: bool = False) -> Calls:
    """What kernels call for such panels and tiles so high, one of `TILE_HEIGHTS`.

    dense: each panel is dequantised once, for all of the rows.
    """
    kinds = (*kinds_of(panels), height, dense)
    if kinds not in _known:
        made = _BY_HEIGHT[height]
        prepare, share = (made.prepare_dense, made.share_dense) if dense else made[:2]
        product, read, x = panel_product, Float32(_SOME) if dense else panels, ready_like(panels)
        if isinstance(panels, Stored):
            prepare, product = stored.functions_of(panels, height)
        given = _TODO, 0, 0, _SOME, panels, x, _SOME, _SOME, 0, 0, 0, 0
        _known[kinds] = Calls(
            address_of(prepare, panels, _SOME, 0, 0),
            address_of(product, read, 0, x, _SOME, 0, 0, (0,) * height),
            address_of(share, *given),
        )
    return _known[kinds]


def gated_at(gate: Panels, up: Panels, height: int) -> int:
    """The address of `Functions.gated` for such panels and tiles so high."""
    kinds = (*kinds_of(gate), *kinds_of(up), height)
    if kinds not in _known_gated:
        pair, x = (_SOME, _SOME), (ready_like(gate), ready_like(up))
        given = _TODO, 0, 0, _SOME, (gate, up), x, pair, pair, 0, 0, 0, 0, (0, 0)
        _known_gated[kinds] = address_of(_BY_HEIGHT[height].gated, *given)
    return _known_gated[kinds]


_SOME, _TODO = np.empty(0, np.float32), np.empty(0, np.int64)
_known: dict[tuple[Any, ...], Calls] = {}
_known_gated: dict[tuple[Any, ...], int] = {}


def kinds_of(panels: Panels) -> tuple[Any, ...]:
    """Their storage format, as a key."""
    if isinstance(panels, Stored):
        return Stored, panels.kind
    return type(panels), *(x.dtype for x in panels if isinstance(x, np.ndarray))


def ready_like(panels: Panels) -> Any:
    """An empty array of the type that such panels take their input in."""
    return stored.WORDS if isinstance(panels, Stored) else _SOME


def _for_height(rows: tuple[int, ...]) -> Functions:
    """For tiles `len(rows)` high. They close over that alone, or Numba would keep none on disk."""

    @njit(**INNER)
    def prepare(panels, x, padded, inputs):
        return prepared(panels, x, padded, inputs, rows)

    @njit(**INNER)
    def share(todo, thread, count, y, panels, x, sums, bias, n, inputs, outputs, product):
        product_share(
            todo, thread, count, y, panels, x, sums, bias, n, inputs, outputs, product, rows
        )

    @njit(**INNER)
    def gated(
        todo, thread, count, y, panels, x, sums, biases, n, inputs, outputs, activation, products
    ):
        gated_share(
            todo, thread, count, y, panels, x, sums, biases, n, inputs, outputs, activation,
            products, rows,
        )  # fmt: skip

    @njit(**INNER)
    def prepare_dense(panels, x, padded, inputs):
        return prepared(Float32(x), x, padded, inputs, rows)

    @njit(**INNER)
    def share_dense(todo, thread, count, y, panels, x, sums, bias, n, inputs, outputs, product):
        dense_share(todo, thread, count, y, panels, x, bias, n, inputs, outputs, product, rows)

    return Functions(prepare, share, gated, prepare_dense, share_dense)


_BY_HEIGHT = {height: _for_height((0,) * height) for height in TILE_HEIGHTS}
prepare, share, gated = _BY_HEIGHT[1][:3]  # for `call_pointer`, at the addresses of any height


def prepared_again(
    panels: Any, x: Any, rows: int, inputs: int, at: int, before: Any, before_at: int, ready: Any
) -> Any:
    """`prepare` at its address, or what is `ready` if that will do: it was made at `before_at` for
    the panels `before`."""
    raise NotImplementedError("for compiled code only")


@overload(prepared_again)
def _prepared_again(panels, x, rows, inputs, at, before, before_at, ready):
    if panels is not before:
        return lambda panels, x, rows, inputs, at, before, before_at, ready: call_pointer(
            prepare, at, (panels, x, rows, inputs)
        )
    if panels.instance_class is Stored:

        def same_rounding(panels, x, rows, inputs, at, before, before_at, ready):
            if at == before_at:
                return ready
            return call_pointer(prepare, at, (panels, x, rows, inputs))

        return same_rounding
    if not hasattr(panels.instance_class, "minimum"):
        return lambda panels, x, rows, inputs, at, before, before_at, ready: ready

    def same_format(panels, x, rows, inputs, at, before, before_at, ready):
        if panels.group == before.group:
            return ready
        return call_pointer(prepare, at, (panels, x, rows, inputs))

    return same_format
