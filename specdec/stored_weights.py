"""Stored weights: a GGUF's linear layers in their own precision, beside its float32 conversion.

transformers renames a GGUF's tensors and reorders their rows, but blocks of quantised weights lie
along a row, so a row of a converted weight is a row of the file. `find` therefore looks rows up by
their values, whatever the architecture; what comes out has the bits of the float32 weight.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from specdec.errors import WeightsError
from specdec.gguf_blocks import TYPES, decode
from specdec.kernels import panel_formats
from specdec.kernels.panel_formats import COLUMN, PANEL
from specdec.kernels.panel_weight import PanelWeight, pack_groups

log = logging.getLogger("specdec")
FILE = "panels.safetensors"
_COLUMNS = PANEL // COLUMN  # of a panel
_KINDS = {kind.__name__: kind for kind in (
    panel_formats.Int8, panel_formats.Int8Affine, panel_formats.Int4Affine)}  # fmt: skip


def find(model: nn.Module, tensors: Iterable[Any]) -> dict[str, PanelWeight]:
    """The weights of `model`'s linear layers, by module name, in the precision of `tensors`.

    tensors: of a `gguf.GGUFReader`. Left out are weights that are not quantised, in a type that we
    do not read, made of several types, or not exactly what their blocks say.
    """
    layers = {
        name: module.weight.detach().numpy()
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    }
    rows = _Rows({weight.shape[1] for weight in layers.values()})
    for tensor in tensors:
        rows.add(tensor)
    found = {name: rows.packed(weight) for name, weight in layers.items()}
    lost = [name for name, weight in found.items() if weight is None]
    if lost and rows.places:
        log.info("%d of %d weights stay float, as %s", len(lost), len(layers), lost[0])
    return {name: weight for name, weight in found.items() if weight is not None}


def save(weights: Mapping[str, PanelWeight], folder: Path) -> None:
    """Write weights into `folder`, to be read by `load`; nothing where there are none.

    The file is the same whatever registers the machine has: in columns of whole panels.
    """
    arrays: dict[str, Any] = {}
    index: dict[str, Any] = {}
    for name, weight in weights.items():
        fields = weight.panels._asdict()
        index[name] = {
            "format": type(weight.panels).__name__,
            "outputs": weight.outputs,
            "inputs": weight.inputs,
            "group": fields.pop("group"),
        }
        arrays |= {
            f"{name}.{field}": _by_input(array, weight.outputs) for field, array in fields.items()
        }
    if arrays:
        save_file(arrays, folder / FILE, metadata={"index": json.dumps(index)})


def load(folder: Path) -> dict[str, PanelWeight]:
    """The weights that `save` wrote into `folder`; none where it wrote none.

    They are copied into memory, whose alignment vector loads want. Raises WeightsError for a file
    that is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            index = json.loads(file.metadata()["index"])
            return {name: _read(file, name, entry) for name, entry in index.items()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is damaged ({error}): delete {folder}, and it is converted anew"
        ) from error


def _read(file: Any, name: str, entry: dict[str, Any]) -> PanelWeight:
    kind: Any = _KINDS[entry["format"]]
    outputs, inputs, group = (int(entry[key]) for key in ("outputs", "inputs", "group"))
    fields = [field for field in kind._fields if field != "group"]
    tensors = [file.get_tensor(f"{name}.{field}") for field in fields]
    arrays = [_by_column(tensor, outputs) for tensor in tensors]
    return PanelWeight(outputs, inputs, kind(*arrays, group))


def _by_input(x: NDArray[Any], outputs: int) -> NDArray[Any]:
    """`[panels, _COLUMNS, n, 32 / _COLUMNS]` as `[panels, n, 32]`, flat both."""
    n = len(x) // (-(-outputs // PANEL) * PANEL)
    apart = x.reshape(-1, _COLUMNS, n, PANEL // _COLUMNS)
    return np.ascontiguousarray(apart.swapaxes(1, 2)).reshape(-1)


def _by_column(x: Tensor, outputs: int) -> NDArray[Any]:
    """The inverse of `_by_input`, a copy."""
    n = len(x) // (-(-outputs // PANEL) * PANEL)
    together: NDArray[Any] = x.numpy().reshape(-1, n, _COLUMNS, PANEL // _COLUMNS)
    return together.swapaxes(1, 2).copy().reshape(-1)


@dataclass
class _Rows:
    """Where each row of a GGUF's quantised matrices is, by type and by the hash of its values."""

    lengths: set[int]

    def __post_init__(self) -> None:
        self.data: list[NDArray[Any]] = []
        self.places: dict[str, dict[int, tuple[int, int]]] = {}

    def add(self, tensor: Any) -> None:
        from gguf import dequantize

        kind = tensor.tensor_type.name
        if kind not in TYPES or len(tensor.shape) != 2 or int(tensor.shape[0]) not in self.lengths:
            return
        values = dequantize(tensor.data, tensor.tensor_type)
        places = self.places.setdefault(kind, {})
        for row, key in enumerate(_hashes(values)):
            places.setdefault(key, (len(self.data), row))
        self.data.append(tensor.data)

    def packed(self, weight: NDArray[Any]) -> PanelWeight | None:
        """A weight `float32[out, in]` from blocks of one type, or None."""
        keys = _hashes(weight)
        for kind, places in self.places.items():
            found = [places.get(key) for key in keys]
            if None in found:
                continue
            codes = decode(kind, np.stack([self.data[t][row] for t, row in found]))  # type: ignore[misc]
            if np.array_equal(
                codes.values(), weight
            ):  # hashes may lie, and signs of zero do not matter
                return pack_groups(codes.codes, codes.scale, codes.minimum, codes.bits)
        return None


def _hashes(rows: NDArray[Any]) -> list[int]:
    return [hash(row.tobytes()) for row in rows]
