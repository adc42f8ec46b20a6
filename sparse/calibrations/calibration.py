"""Calibration: numbers that a method has measured of a model's layers, in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.model.target import Target
from specdec.sparse.fingerprint import check_model

FORMAT = "specdec calibration 1"
Numbers = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """For each layer numbers by name, one or one for each head; None for a sliding window.

    method: whose it is; fingerprint: of the model; text: in words, what it was measured on.
    """

    method: str
    fingerprint: str
    text: str
    layers: tuple[Numbers | None, ...]

    def save(self, path: Path) -> None:
        """Write it as JSON, a line for each layer."""
        layers = ",\n".join(json.dumps(_rounded(layer)) for layer in self.layers)
        head = {"format": FORMAT, "method": self.method, "fingerprint": self.fingerprint}
        top = json.dumps({**head, "text": self.text})[:-1]
        write_text(path, f'{top}, "layers": [\n{layers}\n]}}\n')

    @classmethod
    def load(cls, path: str | Path, method: str, target: Target) -> Calibration:
        """Read a file that `save` wrote for this method and model.

        Raises InvalidArgument, saying why, if it cannot be read, or is something else's.
        """
        how = f"`specdec calibrate {method} FILE` makes one"
        try:
            document = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InvalidArgument(
                f"calibration={str(path)!r} cannot be read ({error.strerror or error}): give "
                f"'auto' or a file; {how}"
            ) from error
        except ValueError as error:
            raise InvalidArgument(f"calibration: {path} is no calibration file; {how}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidArgument(f"calibration: {path} is no calibration file; {how}")
        if document.get("method") != method:
            raise InvalidArgument(
                f"calibration: {path} was made for {document.get('method')!r} and not for "
                f"{method!r}; {how}"
            )
        check_model(f"calibration: {path}", document.get("fingerprint"), target, how)
        layers: Any = document.get("layers")
        if not _is_whole(layers, target):
            raise InvalidArgument(f"calibration: {path} is cut or changed; {how}")
        return cls(method, document["fingerprint"], str(document.get("text")), tuple(layers))

    def of(self, layer: int, name: str) -> list[float]:
        """The numbers of a layer that has some."""
        numbers = self.layers[layer]
        assert numbers is not None, layer
        return numbers[name]


def _rounded(layer: Numbers | None) -> dict[str, list[float]] | None:
    """Six digits, which is more than such a measure is worth."""
    if layer is None:
        return None
    return {name: [float(f"{x:.6g}") for x in numbers] for name, numbers in layer.items()}


def _is_whole(layers: Any, target: Target) -> bool:
    """Whether there is an entry for each layer, with numbers where the layer has full attention."""
    if not isinstance(layers, list) or len(layers) != target.num_layers:
        return False
    for layer, kind in zip(layers, target.layer_types, strict=False):
        if kind == "sliding_attention":
            continue
        if not isinstance(layer, dict) or not layer:
            return False
        if not all(
            isinstance(x, (int, float)) and x == x for numbers in layer.values() for x in numbers
        ):
            return False
    return True
