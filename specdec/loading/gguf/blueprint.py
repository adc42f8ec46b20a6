"""Blueprint: a model's configuration, and where in a GGUF each of its parameters comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from specdec.loading.gguf.file import GGUFFile

Array = NDArray[Any]


class Source(NamedTuple):
    """A parameter: tensors of the file, the order of their rows, and what is made of them.

    rows: index of the file's row for each of the model's, along the first dimension; None leaves
    their order. make: from the tensors' values `float32`, with rows in order, to the parameter's;
    None takes the one tensor as it is, so that a quantised one can be kept as it is stored.
    experts: of matrices of experts, `[experts, out, in]`, the tensors whose rows stand one after
    the other in each: of every part one tensor with all experts, or one for each.
    """

    tensors: tuple[str, ...]
    rows: Array | None = None
    make: Callable[..., Array] | None = None
    experts: tuple[tuple[str, ...], ...] = ()

    def values(self, file: GGUFFile) -> Array:
        """The parameter in float32, a copy."""
        parts = [file.tensors[name].values() for name in self.tensors]
        if self.rows is not None:
            parts = [part[self.rows] for part in parts]
        return parts[0] if self.make is None else np.ascontiguousarray(self.make(*parts))


class Blueprint(NamedTuple):
    """config: of the model to be built; sources: by parameter name, those that are tied left out.

    Also to be found in the file must be, and may be nothing but, the tensors that `sources` name.
    """

    config: PreTrainedConfig
    sources: dict[str, Source]


# By parameter name within a layer: a tensor's name within a block, or what makes the source from
# the block's prefix.
LayerTable = Mapping[str, "str | Callable[[str], Source]"]


def layered(table: LayerTable, layers: int, stem: str = "model.layers") -> dict[str, Source]:
    """Sources of all layers from a table of one."""
    sources = {}
    for i in range(layers):
        block = f"blk.{i}."
        for name, entry in table.items():
            source = Source((block + entry,)) if isinstance(entry, str) else entry(block)
            sources[f"{stem}.{i}.{name}"] = source
    return sources


def changed(tensor: str, make: Callable[[Array], Array]) -> Callable[[str], Source]:
    """An entry of a table: a tensor whose values are changed on reading."""
    return lambda block: Source((block + tensor,), make=make)


def reordered(tensor: str, rows: Array) -> Callable[[str], Source]:
    """An entry of a table: a tensor whose rows lie in another order in the file."""
    return lambda block: Source((block + tensor,), rows)


def zeros(*shape: int) -> Callable[[str], Source]:
    """An entry of a table: a bias that the file does not have, where its neighbours have one."""
    return lambda block: Source((), make=lambda: np.zeros(shape, np.float32))
