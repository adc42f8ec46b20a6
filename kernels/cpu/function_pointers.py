"""Calls by address between Numba functions, so that what is called is compiled once.

Numba links all that a function calls into it, and a parallel loop three times over: LLVM would
optimise the same inner loops again in every kernel that has a matrix product. A function called by
its address is linked into nothing. The address is a number of this process, handed to the kernel
as an argument; how the function is typed is settled when the kernel is compiled.
"""

from __future__ import annotations

from typing import Any

from numba import typeof
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from specdec.kernels.cpu.simd_types import types


def address_of(function: Any, *args: Any) -> int:
    """Where a Numba function for arguments like these has its machine code in this process.

    Compiles it or loads it from the disk, and calls nothing. It must not raise when called: nobody
    would look whether it has.
    """
    kinds = tuple(_exact(typeof(x)) for x in args)
    function.compile(kinds)
    compiled = function.overloads[kinds]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


@intrinsic
def call_pointer(typing: Any, function: Any, address: Any, args: Any) -> Any:
    """`function(*args)`, at the `address_of` it for arguments like these."""
    called = function.get_call_type(typing, tuple(map(_exact, args.types)), {})

    def emit(context: Any, b: Any, signature: Any, values: Any) -> Any:
        kind = context.call_conv.get_function_type(called.return_type, called.args)
        pairs = zip(args.types, called.args, strict=True)
        given = [
            context.cast(b, value, have, want)
            for value, (have, want) in zip(cgutils.unpack_tuple(b, values[2]), pairs, strict=True)
        ]
        out, error = (cgutils.alloca_once(b, pointer.pointee) for pointer in kind.args[:2])
        packed = context.get_arg_packer(called.args).as_arguments(b, given)
        b.call(b.inttoptr(values[1], kind.as_pointer()), [out, error, *packed])
        return context.get_returned_value(b, called.return_type, b.load(out))

    return called.return_type(function, types.int64, args), emit


def _exact(kind: Any) -> Any:
    """The one type that stands for all its likes on both sides of a call."""
    if isinstance(kind, types.Integer):
        return types.int64
    if isinstance(kind, types.Array) and not (kind.layout == "C" and kind.mutable):
        raise TypingError(
            f"a call by address takes contiguous arrays that may be written to, not {kind}"
        )
    return kind
