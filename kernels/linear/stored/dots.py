"""Integer dot products of four bytes in every lane, by what the machine has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llvmlite import binding, ir
from numba.core import config

from specdec.kernels.cpu.simd_types import I8, I32

I16 = ir.IntType(16)
MAX_CODE = 127  # of an activation, by magnitude
FEW = 2  # steps whose codes AVX2's 16 registers hold beside the sums


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
SUMS: int = 8  # vectors of sums that are in registers


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

    def group(self, sums: list[Any], steps: Iterable[tuple[list[Any], Iterable[Any]]]) -> list[Any]:
        """`sums[r, v]` plus the products of `codes[v]` with `x[r]`, over all steps: pairs of codes
        and x, emitted when they are asked for."""
        if KIND == "avx2":
            return self._pairwise(sums, iter(steps))
        product = self._by_parts if KIND == "plain" else self._vnni
        for codes, x in steps:
            pairs = [(code, one) for one in x for code in codes]
            sums = [product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]
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

    def _pairwise(
        self, sums: list[Any], steps: Iterator[tuple[list[Any], Iterable[Any]]]
    ) -> list[Any]:
        """By `maddubs`: as many steps are added in 16 bits as cannot overflow there. Where those
        are few, their codes stay in registers, and else the sums in 16 bits."""
        b = self.b
        shorts = ir.VectorType(I16, 2 * LANES)
        largest = 128 if self.is_signed else (1 << self.bits) - 1
        most = max(1, 32767 // (2 * largest * MAX_CODE))
        ones = ir.Constant(shorts, [1] * (2 * LANES))

        def widened(total: Any, part: Any) -> Any:
            return b.add(total, self._call("llvm.x86.avx2.pmadd.wd", self.words, part, ones))

        while first := next(steps, None):
            if most > FEW:
                parts = self._pinned(list(self._in_shorts([first])))
                for more in islice(steps, most - 1):
                    pairs = zip(parts, self._in_shorts([more]), strict=True)
                    parts = self._pinned([b.add(*pair) for pair in pairs])
                sums = [widened(*pair) for pair in zip(sums, parts, strict=True)]
            else:
                made = self._in_shorts([first, *islice(steps, most - 1)])
                sums = self._pinned([widened(*pair) for pair in zip(sums, made, strict=True)])
        return sums

    def _in_shorts(self, steps: list[tuple[list[Any], Iterable[Any]]]) -> Iterator[Any]:
        """Sums of products over some steps, one after the other: of two inputs in each half of a
        lane."""
        b = self.b
        codes = [[self._unsigned(code) for code in codes] for codes, _ in steps]
        for row in zip(*(x for _, x in steps), strict=True):
            for of_lane in zip(*codes, strict=True):
                made = None
                for (code, sign), one in zip(of_lane, row, strict=True):
                    other = b.bitcast(one, code.type)
                    if sign is not None:
                        other = self._call("llvm.x86.avx2.psign.b", code.type, other, sign)
                    kind = ir.VectorType(I16, 2 * LANES)
                    more = self._call("llvm.x86.avx2.pmadd.ub.sw", kind, code, other)
                    made = more if made is None else b.add(made, more)
                yield made

    def _unsigned(self, code: Any) -> tuple[Any, Any]:
        """Bytes without signs, and what has their signs, if any."""
        b, kind = self.b, ir.VectorType(I8, 4 * LANES)
        bytes_ = b.bitcast(code, kind)
        if not self.is_signed:
            return bytes_, None
        flip, zero = (ir.Constant(kind, [value] * (4 * LANES)) for value in (-128, 0))
        signed = b.xor(bytes_, flip)
        return b.select(b.icmp_signed("<", signed, zero), b.neg(signed), signed), signed

    def _pinned(self, vectors: list[Any]) -> list[Any]:
        """The same vectors, computed by now: LLVM neither puts off what stands before nor begins
        what comes after, for which there would be too few registers."""
        kinds = [x.type for x in vectors]
        kind = kinds[0] if len(vectors) == 1 else ir.LiteralStructType(kinds)
        places = ["=x"] * len(vectors) + [str(i) for i in range(len(vectors))]
        rule = ",".join([*places, "~{memory}"])
        found = self.b.asm(ir.FunctionType(kind, kinds), "", rule, vectors, side_effect=True)
        if len(vectors) == 1:
            return [found]
        return [self.b.extract_value(found, i) for i in range(len(vectors))]

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
