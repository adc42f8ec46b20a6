"""LayerPairs: a calibration that is two matrices for each layer, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.files import replacing
from specdec.model.target import Target
from specdec.sparse.fingerprint import check_model

Pairs = TypeVar("Pairs", bound="LayerPairs")


@dataclass(frozen=True, eq=False)
class LayerPairs:
    """Two matrices for each layer; None for a sliding window.

    fingerprint: of the model; text: what they were measured on, in words.
    format, of what, names, how: of the file, of its contents in words, of the two in it, and how to
    make one.
    """

    format: ClassVar[str]
    of_what: ClassVar[str]
    names: ClassVar[tuple[str, str]]
    how: ClassVar[str]

    fingerprint: str
    text: str
    layers: tuple[tuple[Tensor, Tensor] | None, ...]

    def save(self, path: Path) -> None:
        """Write one safetensors file, in float16."""
        tensors = {
            f"{n}.{name}": x.detach().half().cpu().contiguous()
            for n, layer in enumerate(self.layers)
            if layer is not None
            for name, x in zip(self.names, layer, strict=True)
        }
        facts = {"fingerprint": self.fingerprint, "text": self.text, "layers": len(self.layers)}
        with replacing(path) as unfinished:
            save_file(
                tensors, unfinished, {"specdec": json.dumps({"format": self.format, **facts})}
            )

    @classmethod
    def load(cls: type[Pairs], path: str | Path, target: Target) -> Pairs:
        """Read a file that `save` wrote for this model, in float32 on its device.

        Raises InvalidArgument, saying why, if it cannot be read or is another model's.
        """
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get("specdec", "{}"))
                names = list(file.keys())
                tensors = {name: file.get_tensor(name).float() for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise InvalidArgument(
                f"calibration={str(path)!r} cannot be read ({error}): give 'auto' or a file; "
                f"{cls.how}"
            ) from error
        if facts.get("format") != cls.format:
            raise InvalidArgument(f"calibration: {path} holds no {cls.of_what}; {cls.how}")
        check_model(f"calibration: {path}", facts.get("fingerprint"), target, cls.how)
        first, second = cls.names
        wanted = {f"{n}.{name}" for n in target.full_layers for name in cls.names}
        if facts.get("layers") != target.num_layers or tensors.keys() != wanted:
            raise InvalidArgument(f"calibration: {path} is cut or changed; {cls.how}")
        layers = [
            (tensors[f"{n}.{first}"].to(target.device), tensors[f"{n}.{second}"].to(target.device))
            if f"{n}.{first}" in tensors
            else None
            for n in range(target.num_layers)
        ]
        return cls(facts["fingerprint"], facts["text"], tuple(layers))
