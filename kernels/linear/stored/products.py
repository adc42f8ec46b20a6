"""A panel of stored blocks times a tile of rounded activations, from Numba code.

Sums of a row do not depend on the other rows: within a group of inputs they are whole numbers,
groups are added to each other, and then blocks, one after the other, for every height of tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from specdec.kernels.cpu.simd_types import FLOATS, I8, I32, I64, address, floats, types
from specdec.kernels.linear.packed_formats import PANEL
from specdec.kernels.linear.stored.dots import LANES, SUMS, Dots
from specdec.kernels.linear.stored.formats import BYTES, FORMATS, OUTPUTS, StoredFormat

COLUMNS = PANEL // OUTPUTS
HALF = ir.HalfType()
LINE = 64  # bytes
AHEAD = 1024  # bytes for a row of a tile from what is read to what is asked for
LEAST_AHEAD = 4096


@intrinsic(prefer_literal=True)
def stored_products(
    typing: Any, kind: Any, records: Any, panel: Any, x: Any, row: Any, inputs: Any, rows: Any
) -> Any:
    """Products of one panel with the tile of x that begins with `row`, `len(rows)` high, as
    `len(rows) x 2` vectors. kind: a literal; x: of `rounded`."""
    form, height = FORMATS[kind.literal_value], len(rows)
    result = types.UniTuple(floats, height * COLUMNS)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        _, records_, panel_, x_, row_, inputs_, _ = args
        blocks = b.sdiv(inputs_, I64(form.inputs))
        tile = b.mul(b.sdiv(row_, I64(height)), blocks)
        words = form.rounding.words * height
        start = address(context, b, x, x_, b.mul(tile, I64(words)))
        sums = cgutils.alloca_once(b, ir.ArrayType(FLOATS, height * COLUMNS))
        parts = b.bitcast(sums, ir.FloatType().as_pointer())
        with cgutils.for_range(b, I64(COLUMNS)) as loop:
            column = b.add(b.mul(panel_, I64(COLUMNS)), loop.index)
            size = I64(form.record.itemsize)
            first = address(context, b, records, records_, b.mul(b.mul(column, blocks), size))
            for lanes in _lanes(height):
                made = _Column(b, form, height, lanes)
                totals = made.products(first, start, blocks)
                for (r, lane), total in zip(made.tile, totals, strict=True):
                    at = b.add(b.mul(loop.index, I64(OUTPUTS)), I64(r * PANEL + lane))
                    place = b.bitcast(b.gep(parts, [at]), total.type.as_pointer())
                    b.store(total, place, align=4)
        out = [b.load(b.gep(sums, [I32(0), I32(i)])) for i in range(len(result))]
        return context.make_tuple(b, result, out)

    return result(kind, records, types.int64, x, types.int64, types.int64, rows), emit


def _lanes(height: int) -> list[range]:
    """First outputs of the vectors that a pass over a column multiplies: all of them where their
    sums fit in registers, so that an activation is read once, and always with all rows, so that
    codes are unpacked once."""
    lanes = range(0, OUTPUTS, LANES)
    if height * len(lanes) <= SUMS:
        return [lanes]
    assert height <= SUMS
    return [range(lane, lane + LANES, LANES) for lane in lanes]


@dataclass(frozen=True)
class _Column:
    """Emits the products of some of a column's outputs with the rows of a tile; a sum is a vector
    of LANES outputs and one row, row by row. lanes: the first output of each vector."""

    b: Any
    form: StoredFormat
    height: int
    lanes: range

    @property
    def tile(self) -> list[tuple[int, int]]:
        """Row and first output of each vector of sums."""
        return [(r, lane) for r in range(self.height) for lane in self.lanes]

    @property
    def is_first(self) -> bool:
        """Whether no other part of the tile has passed over the column before."""
        return self.lanes.start == 0

    def products(self, records: Any, x: Any, blocks: Any) -> list[Any]:
        """records: pointer to the column's first; x: to the first words of the tile."""
        b = self.b
        totals = self._zeros()
        size, words = self.form.record.itemsize, self.form.rounding.words * self.height
        with cgutils.for_range(b, blocks) as loop:
            here = b.gep(records, [b.mul(loop.index, I64(size))])
            given = b.gep(x, [b.mul(loop.index, I64(words))])
            parts = self._block(here, given)
            scales = self._by_row(given, self.form.rounding.scale_at)
            for total, part, scale in zip(totals, parts, scales, strict=True):
                b.store(self._fma(part, b.bitcast(scale, self._floats), b.load(total)), total)
        return [b.load(total) for total in totals]

    def _zeros(self) -> list[Any]:
        """Places for sums."""
        places = [cgutils.alloca_once(self.b, self._floats) for _ in self.tile]
        for place in places:
            self.b.store(ir.Constant(self._floats, [0.0] * LANES), place)
        return places

    def _block(self, record: Any, x: Any) -> list[Any]:
        """Of one block, before the scale of its activations."""
        b, form = self.b, self.form
        scales = self._halves(record, "scale")
        minima = self._halves(record, "minimum") if form.has_minimum else []
        if form.groups == form.chunk:
            chunk = _Chunk(b, form, self.height, record, x, I64(0))
            return self._chunk(chunk, scales, minima, None)
        parts = self._zeros()
        with cgutils.for_range(b, I64(form.groups // form.chunk)) as loop:
            chunk = _Chunk(b, form, self.height, record, x, loop.index)
            before = [b.load(part) for part in parts]
            for part, total in zip(parts, self._chunk(chunk, scales, minima, before), strict=True):
                b.store(total, part)
        return [b.load(part) for part in parts]

    def _chunk(
        self, chunk: _Chunk, scales: list[Any], minima: list[Any], parts: list[Any] | None
    ) -> list[Any]:
        """`parts`, if any, plus the products of a chunk's groups."""
        b, form = self.b, self.form
        dots = Dots(b, 8 if form.values else form.bits)
        for g in range(form.chunk):
            made = [b.sitofp(total, self._floats) for total in self._group(dots, chunk, g)]
            here = scales
            if form.is_super:
                small = self._small(chunk, "scales", g)
                here = [b.fmul(*pair) for pair in zip(scales, small, strict=True)]
            factors = self._by_lane(here)
            if parts is None:
                parts = [b.fmul(*pair) for pair in zip(made, factors, strict=True)]
            else:
                parts = [self._fma(*each) for each in zip(made, factors, parts, strict=True)]
            if minima:
                lowest = minima
                if form.is_super:
                    small = self._small(chunk, "minima", g)
                    lowest = [b.fneg(b.fmul(*pair)) for pair in zip(minima, small, strict=True)]
                totals = (b.bitcast(x, self._floats) for x in self._by_row(chunk.sums, g))
                each = zip(totals, self._by_lane(lowest), parts, strict=True)
                parts = [self._fma(*one) for one in each]
        assert parts is not None
        return parts

    def _group(self, dots: Dots, chunk: _Chunk, g: int) -> list[Any]:
        """Whole numbers: codes less `zero`, times activations, over the inputs of group g."""
        form = self.form
        count = form.group // BYTES
        if form.zero and not dots.is_signed:
            sums = self._by_row(chunk.sums, g)
        else:
            sums = [ir.Constant(dots.words, [0] * LANES)] * len(self.tile)
        steps = (
            (self._codes(dots, chunk, j), self._activations(chunk, j))
            for j in range(g * count, (g + 1) * count)
        )
        return dots.group(sums, steps)

    def _by_row(self, x: Any, at: int) -> list[Any]:
        """A word of each row, for each vector of the tile."""
        words = [self._word(x, at, r) for r in range(self.height)]
        return [words[r] for r, _ in self.tile]

    def _by_lane(self, vectors: list[Any]) -> list[Any]:
        """A vector of the column's outputs, for each vector of the tile."""
        return vectors * self.height

    def _activations(self, chunk: _Chunk, j: int) -> Iterator[Any]:
        """Four activations of each row; `j` is this call's own, whenever they are asked for."""
        return (self._word(chunk.codes, j, r) for r in range(self.height))

    def _codes(self, dots: Dots, chunk: _Chunk, j: int) -> list[Any]:
        """Four codes of each output, a byte each."""
        if self.is_first:
            chunk.prefetch(j)
        return [self._codes_from(dots, chunk, j, lane) for lane in self.lanes]

    def _codes_from(self, dots: Dots, chunk: _Chunk, j: int, lane: int) -> Any:
        b, form, step = self.b, self.form, self.form.steps[j]
        codes = self._words(chunk.words, step.word, lane)
        if form.bits == 8:
            return codes
        codes = b.and_(self._shifted(codes, -step.shift), self._bytes(form.low_mask))
        if form.high_bits:
            low, high = form.bits - form.high_bits, self._words(chunk.high, step.high, lane)
            if form.strides.high_shift:
                by = b.trunc(b.mul(chunk.index, I64(form.strides.high_shift)), I32)
                high = b.lshr(high, self._every(by))
            high = self._shifted(high, low - step.high_shift)
            above = self._bytes(((1 << form.high_bits) - 1) << low)
            codes = b.or_(codes, b.and_(high, above))
        if form.values:
            return dots.looked_up(codes, tuple(value + form.zero for value in form.values))
        return codes

    def _shifted(self, x: Any, left: int) -> Any:
        if left == 0:
            return x
        by = ir.Constant(x.type, [abs(left)] * LANES)
        return self.b.shl(x, by) if left > 0 else self.b.lshr(x, by)

    def _bytes(self, value: int) -> Any:
        """A byte, everywhere."""
        return ir.Constant(ir.VectorType(I32, LANES), [value * 0x01010101] * LANES)

    def _words(self, words: Any, at: int, lane: int) -> Any:
        return self._load(words, (at * OUTPUTS + lane) * BYTES, ir.VectorType(I32, LANES))

    def _small(self, chunk: _Chunk, name: str, g: int) -> list[Any]:
        """Small scales or minima of a group, as floats."""
        wide = self.b.sext if self.form.field(name).base == "i1" else self.b.zext
        out = []
        for lane in self.lanes:
            place = g * OUTPUTS + lane
            small = self._load(chunk.small(name), place, ir.VectorType(I8, LANES))
            out.append(self.b.sitofp(wide(small, ir.VectorType(I32, LANES)), self._floats))
        return out

    def _halves(self, record: Any, name: str) -> list[Any]:
        first, kind = self.form.offset(name), ir.VectorType(HALF, LANES)
        places = [first + 2 * lane for lane in self.lanes]
        return [self.b.fpext(self._load(record, place, kind), self._floats) for place in places]

    def _load(self, record: Any, offset: int, kind: Any) -> Any:
        place = self.b.bitcast(self.b.gep(record, [I64(offset)]), kind.as_pointer())
        return self.b.load(place, align=1)

    def _word(self, x: Any, at: int, r: int) -> Any:
        """A word of row r, everywhere."""
        return self._every(self.b.load(self.b.gep(x, [I64(at * self.height + r)])))

    def _every(self, value: Any) -> Any:
        kind = ir.VectorType(I32, LANES)
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.b.insert_element(undefined, value, I32(0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(kind, [0] * LANES))

    @property
    def _floats(self) -> Any:
        return ir.VectorType(ir.FloatType(), LANES)

    def _fma(self, x: Any, y: Any, z: Any) -> Any:
        return _called(self.b, f"llvm.fma.v{LANES}f32", self._floats, x, y, z)


@dataclass(frozen=True)
class _Chunk:
    """Pointers to what a chunk of a block reads. index: which one; record, x: of the block."""

    b: Any
    form: StoredFormat
    height: int
    record: Any
    x: Any
    index: Any

    @property
    def words(self) -> Any:
        return self._by(self.record, 0, self.form.strides.word * OUTPUTS * BYTES)

    @property
    def high(self) -> Any:
        return self._by(self.record, 0, self.form.strides.high * OUTPUTS * BYTES)

    def small(self, name: str) -> Any:
        return self._by(self.record, self.form.offset(name), self.form.chunk * OUTPUTS)

    @property
    def codes(self) -> Any:
        """The activations' codes."""
        return self._by(self.x, 0, self.form.chunk * self.form.group // BYTES * self.height)

    @property
    def sums(self) -> Any:
        first = self.form.rounding.sum_at(0) * self.height
        return self._by(self.x, first, self.form.chunk * self.height)

    def prefetch(self, j: int) -> None:
        """Ask at step j for its share of what will be read some time after: line by line, since a
        core has few requests open at a time, and the further ahead the longer rows take."""
        ahead = max(LEAST_AHEAD, AHEAD * self.height)
        size = self.form.record.itemsize // (self.form.groups // self.form.chunk)
        steps = self.form.chunk * self.form.group // BYTES
        lines = -(-size // LINE)
        here = self._by(self.record, 0, size)
        for line in range(lines * j // steps, lines * (j + 1) // steps):
            place = self.b.gep(here, [I64(ahead + line * LINE)])
            _called(self.b, "llvm.prefetch.p0", ir.VoidType(), place, I32(0), I32(3), I32(1))

    def _by(self, pointer: Any, first: int, stride: int) -> Any:
        return self.b.gep(pointer, [self.b.add(I64(first), self.b.mul(self.index, I64(stride)))])


def _called(b: Any, name: str, kind: Any, *args: Any) -> Any:
    known = b.module.globals.get(name)
    if known is None:
        known = ir.Function(b.module, ir.FunctionType(kind, [x.type for x in args]), name)
    return b.call(known, args)
