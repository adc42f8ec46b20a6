"""The block formats of GGUF that products read as stored, and their layout in memory.

A *block* is what a file holds for one output and some inputs. A *record* holds the blocks of 16
outputs: each 32-bit word of codes stands beside the same word of the other outputs, a lane each, so
that a vector holds four inputs of every output. Small scales, six bits each in a file, have a byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

OUTPUTS = 16  # of a record, a lane each
BYTES = 4  # codes in a word, one a byte

# What the 4-bit codes of the IQ4 types stand for.
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class Step(NamedTuple):
    """Where a record has the codes of four inputs: `word >> shift`, masked, and what is above them
    in `high >> high_shift`."""

    word: int
    shift: int
    high: int = 0
    high_shift: int = 0


@dataclass(frozen=True)
class StoredFormat:
    """A type of GGUF. block: its bytes in a file; words: the fields of it that hold codes, in the
    order of a record; inputs: of a block; group: inputs that share a scale.

    A weight is `scale * (code - zero)`, plus a minimum where `has_minimum`; bits: of a code,
    `high_bits` of them apart. values: what codes stand for, where that is not themselves. chunk: so
    many groups after, steps are the same but for `strides`.
    """

    name: str
    block: np.dtype[Any]
    words: tuple[str, ...]
    inputs: int
    group: int
    steps: tuple[Step, ...]
    zero: int = 0
    bits: int = 4
    high_bits: int = 0
    has_minimum: bool = False
    values: tuple[int, ...] = ()
    chunk: int = 1

    @property
    def groups(self) -> int:
        """Of a block."""
        return self.inputs // self.group

    @property
    def is_super(self) -> bool:
        """Whether a block has a float16 scale and small ones of its groups."""
        return self.groups > 1

    @cached_property
    def strides(self) -> Step:
        """What each entry of a step grows by from chunk to chunk."""
        count = self.chunk * self.group // BYTES
        chunks = [self.steps[i : i + count] for i in range(0, len(self.steps), count)]
        first, second = chunks[0], chunks[min(1, len(chunks) - 1)]
        found = Step(*(b - a for a, b in zip(first[0], second[0], strict=True)))
        for c, steps in enumerate(chunks):
            expected = (tuple(x + c * by for x, by in zip(s, found, strict=True)) for s in first)
            assert tuple(expected) == steps and not found.shift
        return found

    @property
    def low_mask(self) -> int:
        """Of the bits of a code that stand together."""
        return (1 << (self.bits - self.high_bits)) - 1

    @property
    def rounding(self) -> Rounding:
        """How activations are rounded for it."""
        return Rounding(self.inputs, self.group, self.zero)

    @cached_property
    def record(self) -> np.dtype[Any]:
        """The layout of a record."""
        count = sum(self.block[name].itemsize // BYTES for name in self.words)
        fields: list[Any] = [("words", "<u4", (count, OUTPUTS))]
        if self.is_super:
            kind = "u1" if self.has_minimum else "i1"
            fields.append(("scales", kind, (self.groups, OUTPUTS)))
            if self.has_minimum:
                fields.append(("minima", "u1", (self.groups, OUTPUTS)))
        fields.append(("scale", "<f2", (OUTPUTS,)))
        if self.has_minimum:
            fields.append(("minimum", "<f2", (OUTPUTS,)))
        return np.dtype(fields)

    @property
    def growth(self) -> float:
        """Bytes in memory for a byte of the file."""
        return self.record.itemsize / (OUTPUTS * self.block.itemsize)

    def field(self, name: str) -> np.dtype[Any]:
        """The type of a field of a record."""
        fields: Any = self.record.fields
        kind: np.dtype[Any] = fields[name][0]
        return kind

    def offset(self, name: str) -> int:
        """Where a field of a record begins."""
        fields: Any = self.record.fields
        return int(fields[name][1])

    @property
    def code_values(self) -> NDArray[Any]:
        """What a code stands for, `float32[256]`."""
        codes = np.arange(256, dtype=np.float32) - self.zero
        if self.values:
            codes[: len(self.values)] = self.values
        return codes


class Rounding(NamedTuple):
    """Activations in 8 bits, as words of 32. inputs: that share a scale; group: of inputs, whose
    sum is kept beside them, as float32, or times `-zero`, as a whole number, where that is not 0.

    Of a block there are first the codes, four to a word, then the sums, then the scale; each word
    stands beside the same of the other rows of a tile.
    """

    inputs: int
    group: int
    zero: int

    @property
    def words(self) -> int:
        """Of a block and row."""
        return self.scale_at + 1

    @property
    def scale_at(self) -> int:
        return self.inputs // BYTES + self.inputs // self.group

    def sum_at(self, g: int) -> int:
        return self.inputs // BYTES + g


def _file(*fields: tuple[Any, ...]) -> np.dtype[Any]:
    return np.dtype(list(fields))


def _steps(count: int, step: Callable[[int, int], Step]) -> tuple[Step, ...]:
    """Steps of `count` groups of 32 inputs: of group g those with k from 0 to 7."""
    return tuple(step(g, k) for g in range(count) for k in range(8))


_D, _M = ("d", "<f2"), ("m", "<f2")
_SIX_BITS, _FOUR_WORDS, _BLOCK = ("scales", "u1", (12,)), ("qs", "<u4", (4,)), ("qs", "<u4", (32,))
_HALVES = _steps(1, lambda g, k: Step(k % 4, k // 4 * 4))
_FIVE = _steps(1, lambda g, k: Step(1 + k % 4, k // 4 * 4, 0, k))

_ALL = (
    StoredFormat("Q4_0", _file(_D, _FOUR_WORDS), ("qs",), 32, 32, _HALVES, zero=8),
    StoredFormat("Q4_1", _file(_D, _M, _FOUR_WORDS), ("qs",), 32, 32, _HALVES, has_minimum=True),
    StoredFormat(
        "Q5_0", _file(_D, ("qh", "<u4", (1,)), _FOUR_WORDS), ("qh", "qs"), 32, 32, _FIVE,
        zero=16, bits=5, high_bits=1,
    ),
    StoredFormat(
        "Q5_1", _file(_D, _M, ("qh", "<u4", (1,)), _FOUR_WORDS), ("qh", "qs"), 32, 32, _FIVE,
        bits=5, high_bits=1, has_minimum=True,
    ),
    StoredFormat(
        "Q8_0", _file(_D, ("qs", "<u4", (8,))), ("qs",), 32, 32,
        _steps(1, lambda g, k: Step(k, 0)), zero=128, bits=8,
    ),
    StoredFormat(
        "Q4_K", _file(_D, _M, _SIX_BITS, _BLOCK), ("qs",), 256, 32,
        _steps(8, lambda g, k: Step(g // 2 * 8 + k, g % 2 * 4)), has_minimum=True, chunk=2,
    ),
    StoredFormat(
        "Q5_K", _file(_D, _M, _SIX_BITS, ("qh", "<u4", (8,)), _BLOCK), ("qh", "qs"), 256, 32,
        _steps(8, lambda g, k: Step(8 + g // 2 * 8 + k, g % 2 * 4, k, g)),
        bits=5, high_bits=1, has_minimum=True, chunk=2,
    ),
    StoredFormat(
        "Q6_K", _file(("ql", "<u4", (32,)), ("qh", "<u4", (16,)), ("scales", "i1", (16,)), _D),
        ("ql", "qh"), 256, 16,
        _steps(8, lambda s, k: Step(s // 4 * 16 + s % 2 * 8 + k, s % 4 // 2 * 4,
                                    32 + s // 4 * 8 + k, s % 4 * 2)),
        zero=32, bits=6, high_bits=2, chunk=8,
    ),
    StoredFormat(
        "IQ4_NL", _file(_D, _FOUR_WORDS), ("qs",), 32, 32, _HALVES, zero=128, values=IQ4
    ),
    StoredFormat(
        "IQ4_XS", _file(_D, ("high", "<u2"), ("low", "u1", (4,)), _BLOCK), ("qs",), 256, 32,
        _steps(8, lambda g, k: Step(g * 4 + k % 4, k // 4 * 4)), zero=128, values=IQ4,
    ),
)  # fmt: skip
FORMATS: tuple[StoredFormat, ...] = _ALL
KINDS: dict[str, int] = {entry.name: kind for kind, entry in enumerate(FORMATS)}
