"""Rotation: how a model's rotation of keys depends on the length of the text, and how far it goes.

Some kinds of RoPE turn *all* positions of a pass by its largest one. longrope takes other factors
past a boundary; dynamic NTK, past its own, takes others for every length. transformers' decoding
then leaves older keys as they were turned, and so must we: a prompt is turned by its whole length,
a later token by the length of the text that ends with it. A pass may therefore hold only rows, and
drafts, that are turned alike; then drafts and batches cannot change the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")

UNLIMITED = 1 << 40
# Models whose `prepare_inputs_for_generation` drops the cache once the text passes the boundary.
_READ_ANEW = {"phi3", "phimoe", "phi4_multimodal"}

Regime = tuple[int, ...]


@dataclass(frozen=True)
class Rotation:
    """Where a model's rotation changes.

    steps: lengths of text past which it is another one; moving: past this one it is another for
    each length; anew: past this one a text that was shorter is read again from its start.
    """

    steps: tuple[int, ...] = ()
    moving: int | None = None
    anew: int | None = None

    @classmethod
    def of(cls, whole: Any) -> Rotation:
        """The rotation that a model's configuration describes."""
        config = whole.get_text_config() if hasattr(whole, "get_text_config") else whole
        steps, moving = set(), None
        for parameters in _parameters(config).values():
            kind = _kind(parameters)
            if kind in ("longrope", "su"):
                steps.add(int(_original(config, parameters) or _stated(config)))
            elif "dynamic" in kind:
                moving = _stated(config)
        # The outermost model decodes: a Phi-3 inside another is not read anew.
        anew = getattr(whole, "original_max_position_embeddings", None)
        if not steps or getattr(whole, "model_type", "") not in _READ_ANEW:
            anew = None
        return cls(tuple(sorted(steps)), moving, anew)

    @property
    def is_fixed(self) -> bool:
        """Whether each position is turned alike, whatever the length of the text."""
        return not self.steps and self.moving is None

    @property
    def first_change(self) -> int | None:
        """The longest text that is turned as every shorter one; None if all are."""
        return min(self._ends, default=None)

    def regime(self, length: int) -> Regime:
        """What all texts that are turned alike have in common; a shorter text's is not greater."""
        moved = length if self.moving is not None and length > self.moving else 0
        return (*(int(length > step) for step in self.steps), moved)

    def limit(self, length: int, limit: int) -> int:
        """How deep a draft behind a text may be, `limit` at most, so that it is turned alike."""
        if self.is_fixed:
            return limit
        if self.moving is not None and length > self.moving:
            return min(limit, 0)
        return min([limit, *(end - length for end in self._ends if length <= end)])

    def together(self, rows: Sequence[T], lengths: Sequence[int]) -> list[list[T]]:
        """`rows` in groups that are turned alike, the shortest texts first."""
        if self.is_fixed:
            return [list(rows)]
        groups: dict[Regime, list[T]] = {}
        for row, length in zip(rows, lengths, strict=True):
            groups.setdefault(self.regime(length), []).append(row)
        return [groups[regime] for regime in sorted(groups)]

    @property
    def _ends(self) -> tuple[int, ...]:
        """The longest lengths before each change."""
        return self.steps if self.moving is None else (*self.steps, self.moving)

    def must_reread(self, before: int, length: int) -> bool:
        """Whether a text that was of `before` tokens is read anew now that it has `length`."""
        return self.anew is not None and before <= self.anew < length


def max_positions(config: Any) -> int:
    """How many positions a text may have, or a very large number if the model sets no limit.

    YaRN, linear and dynamic scaling stretch the length that the model was trained for, which is
    what most configurations state; the other kinds, and linear scaling of some layer types only (as
    in Gemma 3), state the stretched length. Layers with a window set no limit.
    """
    stated, parameters = _stated(config), _parameters(config)
    is_nested = "" not in parameters
    seeing_all = [p for name, p in parameters.items() if "sliding" not in name]
    return min((_stretched(config, stated, p, is_nested) for p in seeing_all), default=stated)


def _stretched(config: Any, stated: int, parameters: Mapping[str, Any], is_nested: bool) -> int:
    kind, factor = _kind(parameters), float(parameters.get("factor") or 1.0)
    if kind in ("yarn", "longrope", "su"):
        return max(stated, int((_original(config, parameters) or 0) * factor))
    if "dynamic" in kind or (kind == "linear" and not is_nested):
        return int(stated * factor)
    return stated


def _stated(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or UNLIMITED)


def _parameters(config: Any) -> dict[str, Mapping[str, Any]]:
    """RoPE parameters by layer type, or under "" where all layers have the same."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    labels = getattr(config, "_rope_type_labels", None) or getattr(config, "layer_types", None)
    nested = {name: found[name] or {} for name in labels or () if name in found}
    return nested or {"": found}


def _kind(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("rope_type") or parameters.get("type") or "default")


def _original(config: Any, parameters: Mapping[str, Any]) -> int | None:
    known = parameters.get("original_max_position_embeddings")
    return known or getattr(config, "original_max_position_embeddings", None)


class RotaryState:
    """The part of a model's rotary modules that passes leave changed: dynamic NTK's frequencies.

    transformers keeps those of the longest text so far, and turns the next text by them unless it
    is much shorter. `reset` before each pass makes a pass depend on its own positions alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found: list[tuple[nn.Module, str]] = []
        for module in model.modules():
            kinds = getattr(module, "rope_type", None)
            if not hasattr(module, "max_seq_len_cached") or kinds is None:
                continue
            each = kinds.items() if isinstance(kinds, Mapping) else [("", kinds)]
            self._found += [
                (module, f"{layer}_" if layer else "")
                for layer, kind in each
                if "dynamic" in str(kind)
            ]

    def reset(self) -> None:
        """As if no text had been longer than what the model was trained for."""
        for module, prefix in self._found:
            first: Any = module.original_max_seq_len
            if getattr(module, f"{prefix}max_seq_len_cached", first) != first:
                frequencies: Any = getattr(module, f"{prefix}original_inv_freq")
                setattr(module, f"{prefix}inv_freq", frequencies)
                setattr(module, f"{prefix}max_seq_len_cached", first)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave the modules as they were before."""
        names = ("inv_freq", "max_seq_len_cached")
        before = [
            (module, prefix + name, getattr(module, prefix + name))
            for module, prefix in self._found
            for name in names
            if hasattr(module, prefix + name)
        ]
        try:
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)
