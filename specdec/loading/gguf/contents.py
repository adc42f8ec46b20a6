"""Contents: what a GGUF says of its model, and which of it has been understood."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.gguf.file import GGUFFile

_ADVICE = "give a safetensors folder of the same model instead"

# Keys under an architecture's prefix that say nothing about its logits.
_HARMLESS = {
    "pooling_type",  # of embeddings
    "tensor_data_layout",  # how the original file named its layout; blocks are one layout only
    "rope.scaling.finetuned",  # whether scaling was trained or added
}


class Contents:
    """Keys of a GGUF under its architecture's prefix, asked for by the rest of their names.

    A key that is asked for counts as understood, and so does a tensor; `check_keys` and
    `check_tensors` raise for what was never asked for. Values of another type than expected raise
    WeightsError.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.architecture = str(file.fields.get("general.architecture", ""))
        if not self.architecture:
            raise WeightsError(f"{file.path} names no general.architecture")
        kind = file.fields.get("general.type", "model")
        if kind != "model":
            raise UnsupportedModel(f"{file.path} holds an {kind} (general.type), and no model")
        self.prefix = self.architecture + "."
        self._read = {self.prefix + name for name in _HARMLESS}
        self._taken: set[str] = set()

    def key(self, name: str) -> Any:
        """A key's value, or None where the file has none."""
        self._read.add(self.prefix + name)
        return self.file.fields.get(self.prefix + name)

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._number(name, default, int))

    def real(self, name: str, default: float | None = None) -> float:
        return float(self._number(name, default, float))

    def positive(self, name: str, default: float | None = None) -> float:
        """Raises UnsupportedModel for zero, less, or what is no number."""
        value = self.real(name, default)
        if not 0 < value < math.inf:
            raise self.refusal(name, "it must be positive")
        return value

    def count(self, name: str, default: int | None = None, most: int | None = None) -> int:
        """Raises UnsupportedModel for less than one, or more than `most`."""
        value = self.integer(name, default)
        if value < 1 or most is not None and value > most:
            raise self.refusal(
                name, "it must be 1 at least" + (f", {most} at most" if most else "")
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._number(name, default, bool))

    def expect(self, name: str, *allowed: Any, why: str = "") -> None:
        """Raise UnsupportedModel unless the key is one of `allowed`, or not there."""
        value = self._same(name, self.key(name))
        if value is not None and value not in allowed:
            raise self.refusal(name, why or f"only {' or '.join(map(str, allowed))} is supported")

    def refusal(self, name: str, why: str) -> UnsupportedModel:
        """The error for a key that is there and cannot be honoured."""
        return UnsupportedModel(
            f"{self.file.path.name}: {self.prefix}{name} is {self.key(name)!r}: {why}; {_ADVICE}"
        )

    def has(self, tensor: str) -> bool:
        return tensor in self.file.tensors

    def rows(self, tensor: str) -> int:
        return int(self.shape(tensor)[0])

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Raises WeightsError where the tensor is missing."""
        if tensor not in self.file.tensors:
            raise WeightsError(f"{self.file.path} lacks the tensor {tensor}: is it whole?")
        return self.file.tensors[tensor].shape

    def numbers(self, tensor: str) -> list[float]:
        """A tensor that is part of the configuration, such as RoPE's factors."""
        self.shape(tensor)
        self._taken.add(tensor)
        return [float(x) for x in self.file.tensors[tensor].values().reshape(-1)]

    def check_keys(self) -> None:
        """Raise UnsupportedModel for a key under the prefix that nobody asked for."""
        fields = self.file.fields
        keys = [key for key in fields if key.startswith(self.prefix) and key not in self._read]
        if keys:
            raise UnsupportedModel(
                f"{self.file.path.name}: the key {keys[0]} = {fields[keys[0]]!r} is not "
                f"understood for this architecture{_more(keys)}, and the model may depend on it; "
                f"{_ADVICE}"
            )

    def check_tensors(self, used: Iterable[str]) -> None:
        """Raise UnsupportedModel for a tensor that was neither `used` nor asked for."""
        left = sorted(self.file.tensors.keys() - self._taken - set(used))
        if left:
            raise UnsupportedModel(
                f"{self.file.path.name}: the tensor {left[0]} is not understood for architecture "
                f"{self.architecture}{_more(left)}, and the model may depend on it; {_ADVICE}"
            )

    def _number(self, name: str, default: Any, kind: type) -> Any:
        value = self._same(name, self.key(name))
        if value is None:
            value = default
        if value is None:
            raise WeightsError(f"{self.file.path} lacks the key {self.prefix}{name}: is it whole?")
        takes = (int, float) if kind is float else (bool,) if kind is bool else (int,)
        is_right = isinstance(value, takes) and (kind is bool or not isinstance(value, bool))
        if not is_right or not math.isfinite(value):
            raise WeightsError(f"{self.file.path}: {self.prefix}{name} is {value!r}, not {kind}")
        return value

    def _same(self, name: str, value: Any) -> Any:
        """A value that may be given for each layer, which then must be the same for all."""
        if not isinstance(value, list):
            return value
        if not value or any(other != value[0] for other in value):
            raise self.refusal(name, "layers that differ in it are not supported")
        return value[0]


def _more(names: list[str]) -> str:
    return f" (nor {len(names) - 1} more)" if len(names) > 1 else ""
