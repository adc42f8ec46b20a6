"""The type of sixteen float32 lanes in Numba code, and the LLVM shorthand its operations share.

One vector is a zmm register with AVX-512, two ymm with AVX2, four on NEON: LLVM splits it. Kernels
hold vectors in tuples, so that accumulators stay in registers: `simd` computes with them,
`simd_memory` reads and writes them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types as numba_types
from numba.extending import models, register_model

LANES = 16
types: Any = numba_types

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(I32, LANES)


class Floats(types.Type):
    """The Numba type of a vector of LANES float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


floats = Floats()


@register_model(Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def address(context: Any, b: Any, kind: Any, array: Any, at: Any) -> Any:
    """A pointer to `array[at]`, by flat index and without a bounds check."""
    data = context.make_array(kind)(context, b, array).data
    return b.gep(data, [at])


def every_lane(b: Any, x: Any) -> Any:
    """A vector with `x` in every lane."""
    undefined = ir.Constant(FLOATS, ir.Undefined)
    one = b.insert_element(undefined, x, I32(0))
    return b.shuffle_vector(one, undefined, ir.Constant(INTS, [0] * LANES))


def constant(x: float) -> Any:
    """A vector with a number known now in every lane."""
    return ir.Constant(FLOATS, [x] * LANES)


def call(b: Any, name: str, *args: Any) -> Any:
    """An LLVM intrinsic on whole vectors, such as llvm.fma."""
    name = f"llvm.{name}.v{LANES}f32"
    known = b.module.globals.get(name)
    if known is None:
        known = ir.Function(b.module, ir.FunctionType(FLOATS, [FLOATS] * len(args)), name)
    return b.call(known, list(args))
