"""Integer dot products of four bytes in every lane, by what the machine has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llvmlite import binding, ir
from numba.core import config

from specdec.kernels.cpu.simd_types import I8, I32

I16 = ir.IntType(16)
MAX_CODE = 127  # of an activation, by magnitude


def _features() -> frozenset[str]:
    """What Numba compiles for: NUMBA_CPU_FEATURES if it is set, else this machine."""
    text = config.CPU_FEATURES
    if text is None:
        text = binding.get_host_cpu_features().flatten()
    return frozenset(text.split(","))


def _kind() -> str:
    has = _features()
    if {"+avx512vnni", "+avx512bw", "+avx512vl"} <= has:
        return "avx512-vnni"
    if {"+avxvnni", "+avx2"} <= has:
        return "avx-vnni"
    return "avx2" if "+avx2" in has else "plain"


KIND: str = _kind()  # shown as the ISA of integer products
LANES: int = 16 if KIND == "avx512-vnni" else 8  # outputs that are multiplied at a time
ROWS: int = 8 if KIND == "avx512-vnni" else 4  # rows whose sums are in registers


@dataclass(frozen=True)
class Dots:
    """Emits products of codes (unsigned bytes, `bits` of them used) with activations.

    Vectors are LANES words of four bytes.
    """

    b: Any
    bits: int

    @property
    def words(self) -> Any:
        return ir.VectorType(I32, LANES)

    @property
    def is_signed(self) -> bool:
        """Whether codes of 8 bits are multiplied less 128: 16 bits do not hold two products of 255,
        so their signs go to the activations."""
        return KIND == "avx2" and self.bits == 8

    def group(self, sums: list[Any], steps: Iterable[tuple[Any, Iterable[Any]]]) -> list[Any]:
        """`sums[r]` plus the products of codes with `x[r]`, over all steps: pairs of codes and x,
        emitted when they are asked for."""
        if KIND == "avx2":
            return self._pairwise(sums, list(steps))
        product = self._by_parts if KIND == "plain" else self._vnni
        for codes, x in steps:
            sums = [product(total, codes, one) for total, one in zip(sums, x, strict=True)]
        return sums

    def looked_up(self, codes: Any, values: tuple[int, ...]) -> Any:
        """Bytes of `values` in place of codes 0 to 15."""
        b, count = self.b, 4 * LANES
        table = ir.Constant(ir.VectorType(I8, count), [values[i % 16] for i in range(count)])
        bytes_ = b.bitcast(codes, table.type)
        if KIND == "plain":
            out = ir.Constant(table.type, [values[0]] * count)
            for code, value in enumerate(values[1:], 1):
                here = b.icmp_unsigned("==", bytes_, ir.Constant(table.type, [code] * count))
                out = b.select(here, ir.Constant(table.type, [value] * count), out)
            return b.bitcast(out, self.words)
        name = "llvm.x86.avx512.pshuf.b.512" if count == 64 else "llvm.x86.avx2.pshuf.b"
        return b.bitcast(self._call(name, table.type, table, bytes_), self.words)

    def _vnni(self, total: Any, codes: Any, x: Any) -> Any:
        return self._call(f"llvm.x86.avx512.vpdpbusd.{32 * LANES}", self.words, total, codes, x)

    def _pairwise(self, sums: list[Any], steps: list[tuple[Any, Iterable[Any]]]) -> list[Any]:
        """By `maddubs`: as many steps are added in 16 bits as cannot overflow there."""
        b = self.b
        shorts, small = ir.VectorType(I16, 2 * LANES), ir.VectorType(I8, 4 * LANES)
        largest = 128 if self.is_signed else (1 << self.bits) - 1
        most = max(1, 32767 // (2 * largest * MAX_CODE))
        ones = ir.Constant(shorts, [1] * (2 * LANES))
        for first in range(0, len(steps), most):
            parts: list[Any] = [None] * len(sums)
            for code, row in steps[first : first + most]:
                bytes_ = b.bitcast(code, small)
                if self.is_signed:
                    signed = b.xor(bytes_, ir.Constant(small, [-128] * (4 * LANES)))
                    negative = b.icmp_signed("<", signed, ir.Constant(small, [0] * (4 * LANES)))
                    bytes_ = b.select(negative, b.neg(signed), signed)
                for r, one in enumerate(row):
                    other = b.bitcast(one, small)
                    if self.is_signed:
                        other = self._call("llvm.x86.avx2.psign.b", small, other, signed)
                    made = self._call("llvm.x86.avx2.pmadd.ub.sw", shorts, bytes_, other)
                    parts[r] = made if parts[r] is None else b.add(parts[r], made)
            sums = [
                b.add(total, self._call("llvm.x86.avx2.pmadd.wd", self.words, part, ones))
                for total, part in zip(sums, parts, strict=True)
            ]
        return sums

    def _by_parts(self, total: Any, codes: Any, x: Any) -> Any:
        """One byte of each word after the other."""
        b = self.b
        mask = ir.Constant(self.words, [255] * LANES)
        for at in (0, 8, 16, 24):
            code = b.and_(b.lshr(codes, ir.Constant(self.words, [at] * LANES)), mask)
            left = b.shl(x, ir.Constant(self.words, [24 - at] * LANES))
            one = b.ashr(left, ir.Constant(self.words, [24] * LANES))
            total = b.add(total, b.mul(code, one))
        return total

    def _call(self, name: str, kind: Any, *args: Any) -> Any:
        module = self.b.module
        known = module.globals.get(name)
        if known is None:
            known = ir.Function(module, ir.FunctionType(kind, [x.type for x in args]), name)
        return self.b.call(known, args)
