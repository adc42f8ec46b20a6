"""Work that threads divide: each does its own share in order, then what others have left.

Equal shares end together only where cores are equally fast and nobody else runs on them. Own ones
come first and in order, so that what a thread prefetches is what it will read.

    todo = shares(count)
    for thread in prange(num_shares(todo)):
        while True:
            piece = next_piece(todo, thread, count)
            if piece < 0:
                break
            ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from specdec.kernels.cpu import simd
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import I64, address, types

LINE = 8  # numbers of a cache line: counters of two threads do not share one


@inner
def shares(count):
    """Where each thread's share of `count` pieces begins, for `next_piece` to count up."""
    threads = _threads()
    out = np.empty(threads * LINE, np.int64)
    for thread in range(threads):
        simd.no_unroll()
        out[thread * LINE] = thread * count // threads
    return out


@inner
def num_shares(shares):
    """How many threads the work is divided among."""
    return len(shares) // LINE


@inner
def next_piece(shares, thread, count):
    """A piece of work that nobody has taken yet, taken for a thread; -1 when there is none left."""
    threads = num_shares(shares)
    for k in range(threads):
        simd.no_unroll()
        owner = (thread + k) % threads
        end = (owner + 1) * count // threads
        if shares[owner * LINE] < end:
            piece = _count_up(shares, owner * LINE)
            if piece < end:
                return piece
    return -1


@intrinsic
def _count_up(typing: Any, array: Any, at: Any) -> Any:
    """`array[at]` before it grows by one, in place; no two threads see the same."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = address(context, b, array, args[0], args[1])
        return b.atomic_rmw("add", place, I64(1), "monotonic")

    return types.int64(array, types.int64), emit


@intrinsic
def _threads(typing: Any) -> Any:
    """Numba's `get_num_threads`, which by its own name would keep kernels from the disk cache."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(I64(0).type, [])
        return b.call(cgutils.get_or_insert_function(b.module, kind, "get_num_threads"), [])

    return types.int64(), emit
