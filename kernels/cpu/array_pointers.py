"""Arrays by their address, in Numba code: what lies in many places is one table of numbers.

A Numba function takes each array it is given apart, which costs more than many a kernel: the
weights of all layers and the keys of all levels are therefore handed over as their addresses. The
caller keeps them alive for as long as the call lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.cpu.simd_types import I64, types

KEYS, VALUES, ROWS, CAPACITY = range(4)  # columns of `pointers_of_levels`


def pointers_of_levels(levels: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.int64]:
    """`int64[levels, 4]`: addresses of contiguous keys and values `[rows, Hkv, capacity, D]`, rows
    and capacity."""
    rows = [(k.data_ptr(), v.data_ptr(), k.shape[0], k.shape[2]) for k, v in levels]
    return np.array(rows, np.int64)


def pointers_of_arrays(nested: Sequence[Any]) -> NDArray[np.int64]:
    """`int64[tuples, arrays]`: where the arrays of nested tuples are, in order, for `rebind`."""
    each = {id(one): one for one in nested}  # layers that read the same are asked once
    pointers = {key: [x.ctypes.data for x in _arrays(one)] for key, one in each.items()}
    return np.array([pointers[id(one)] for one in nested], np.int64)


def _arrays(nested: Any) -> Iterator[NDArray[Any]]:
    if isinstance(nested, np.ndarray):
        yield nested
    elif isinstance(nested, tuple):
        for part in nested:
            yield from _arrays(part)


@intrinsic
def floats_at(typing: Any, address: Any, size: Any) -> Any:
    """The `size` float32 at an address, as a flat array."""
    kind = types.Array(types.float32, 1, "C")

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(kind)(context, b)
        data = b.inttoptr(args[0], array.data.type)
        populate_array(array, data, [args[1]], [I64(4)], I64(4), meminfo=None)
        return array._getvalue()

    return kind(types.int64, types.int64), emit


@intrinsic
def rebind(typing: Any, like: Any, pointers: Any, at: Any) -> Any:
    """Nested tuples as `like`, whose arrays, shaped as there, are at `pointers[at:]` in order."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        table_kind = signature.args[1]
        table = context.make_array(table_kind)(context, b, args[1]).data
        taken = iter(range(1 << 30))

        def rebuilt(kind: Any, value: Any) -> Any:
            if isinstance(kind, types.BaseTuple):
                parts = cgutils.unpack_tuple(b, value, len(kind))
                pairs = zip(kind.types, parts, strict=True)
                return context.make_tuple(b, kind, [rebuilt(*pair) for pair in pairs])
            if not isinstance(kind, types.Array):
                return value
            array = context.make_array(kind)(context, b, value)
            pointer = b.load(b.gep(table, [b.add(args[2], I64(next(taken)))]))
            array.data = b.inttoptr(pointer, array.data.type)
            array.meminfo = ir.Constant(array.meminfo.type, None)  # nobody's to count
            array.parent = ir.Constant(array.parent.type, None)
            return array._getvalue()

        return rebuilt(like, args[0])

    return like(like, pointers, types.int64), emit
