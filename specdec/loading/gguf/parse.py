"""parse: the bytes of one GGUF file, version 2 or 3, as its keys and tensors."""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from specdec.errors import WeightsError
from specdec.loading.gguf.kinds import check_kinds
from specdec.loading.gguf.tensor import Tensor

_NUMBERS = "BbHhIif?"  # by type of value 0..7, in the letters of `struct`
_LONG_NUMBERS = {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEEPEST = 4  # arrays in arrays; more is a damaged file
_TYPES = {
    "F32", "F16", "F64", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K",
    "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL",
    "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4",
}  # fmt: skip


class Parsed(NamedTuple):
    """One file: its keys with plain values, and its tensors by name."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]


def parse(content: mmap.mmap, path: Path) -> Parsed:
    """Read a file that starts with 'GGUF'. Raises WeightsError for one that is cut or damaged."""
    try:
        return _Cursor(content, path).parsed()
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise WeightsError(
            f"{path} could not be read as GGUF ({reason}): is it whole? Compare its size or "
            "checksum with the source, or download it again"
        ) from error


class _Cursor:
    """A place in the file that moves on as things are read."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self.content, self.path, self.at = content, path, 4

    def parsed(self) -> Parsed:
        version = self.number("I")
        if version & 0xFFFF == 0:
            raise WeightsError(f"{self.path} is big-endian, which is not supported")
        if version not in (2, 3):
            raise WeightsError(f"{self.path} is GGUF version {version}; 2 and 3 are read")
        tensors, keys = self.number("Q"), self.number("Q")
        fields: dict[str, Any] = {}
        for _ in range(keys):
            key = self.string()
            if key in fields:
                raise WeightsError(f"{self.path} holds the key {key} twice")
            fields[key] = self.value(self.number("I"))
        check_kinds(self.path, fields)
        return Parsed(self.path, fields, self.tensors(tensors, fields))

    def number(self, letter: str) -> Any:
        (value,) = struct.unpack_from("<" + letter, self.content, self.at)
        self.at += struct.calcsize("<" + letter)
        return value

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """A vocabulary has a quarter of a million of these."""
        content, at, total = self.content, self.at, len(self.content)
        length, found = struct.Struct("<Q").unpack_from, []
        for _ in range(count):
            begin = at + 8
            at = begin + length(content, at)[0]
            if at > total:
                raise ValueError("a string reaches past the end")
            found.append(content[begin:at].decode("utf-8"))
        self.at = at
        return found

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value as Python has it; an array is a list."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_letter(kind))
        inner, count = self.number("I"), self.number("Q")
        if inner == _STRING:
            return self.strings(count)
        if inner == _ARRAY:
            if depth >= _DEEPEST:
                raise ValueError("arrays within arrays")
            return [self.value(inner, depth + 1) for _ in range(count)]
        kind_of = np.dtype("<" + _letter(inner))
        found = np.frombuffer(self.content, kind_of, count, self.at).tolist() if count else []
        self.at += count * kind_of.itemsize
        return found

    def tensors(self, count: int, fields: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors, whose descriptions come first and whose blocks lie behind them all."""
        found: dict[str, tuple[str, tuple[int, ...], int]] = {}
        for _ in range(count):
            name, dims = self.string(), self.number("I")
            if dims not in range(1, 5):
                raise ValueError(f"{name} has {dims} dimensions")
            shape = tuple(self.number("Q") for _ in range(dims))[::-1]
            kind = gguf.GGMLQuantizationType(self.number("I")).name
            if name in found:
                raise WeightsError(f"{self.path} holds the tensor {name} twice")
            found[name] = (kind, shape, self.number("Q"))
        alignment = int(fields.get("general.alignment", 32))
        if alignment <= 0 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment}")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        expected = 0
        for name, (kind, shape, offset) in found.items():
            per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
            if kind not in _TYPES:
                raise WeightsError(f"{self.path}: {name} is of type {kind}, which is not read")
            rows, blocks = math.prod(shape[:-1]), shape[-1] // per_block
            if min(shape) < 1 or shape[-1] % per_block:
                raise ValueError(f"{name} has the shape {shape} in blocks of {per_block}")
            if offset != expected:
                raise ValueError(f"{name} does not lie behind the tensor before it")
            nbytes = rows * blocks * size
            data = np.frombuffer(self.content, np.uint8, nbytes, start + offset)
            tensors[name] = Tensor(kind, shape, data.reshape(rows, -1))
            expected = -(-(offset + nbytes) // alignment) * alignment
        return tensors


def _letter(kind: int) -> str:
    if kind < len(_NUMBERS):
        return _NUMBERS[kind]
    if kind in _LONG_NUMBERS:
        return _LONG_NUMBERS[kind]
    raise ValueError(f"a value of type {kind}")
