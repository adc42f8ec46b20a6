"""KeyValueBases: the directions in which a layer's keys and values mostly lie, measured once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.errors import InvalidArgument
from specdec.files import replacing
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.maths.low_rank import directions
from specdec.sparse.scorers.channel_order import fingerprint

FORMAT = "specdec key and value bases 1"
HOW = "`specdec calibrate cskv FILE` makes some"
TOKENS = 2048  # of the text, from its start
LARGEST = 0.75  # share of the directions that is kept: CSKV's largest


@dataclass(frozen=True, eq=False)
class KeyValueBases:
    """For each layer orthonormal directions `[Hkv * D, rank]` of its keys before rotation and of
    its values, all heads together, the strongest first; None for a sliding window.

    fingerprint: of the model; text: what they were measured on, in words.
    """

    fingerprint: str
    text: str
    layers: tuple[tuple[Tensor, Tensor] | None, ...]

    def of(self, part: int) -> dict[int, Tensor]:
        """Those of keys (0) or of values (1), by layer."""
        return {n: layer[part] for n, layer in enumerate(self.layers) if layer is not None}

    def save(self, path: Path) -> None:
        """Write one safetensors file, in float16."""
        tensors = {
            f"{n}.{name}": x.half().cpu().contiguous()
            for n, layer in enumerate(self.layers)
            if layer is not None
            for name, x in zip("kv", layer, strict=True)
        }
        facts = {"fingerprint": self.fingerprint, "text": self.text, "layers": len(self.layers)}
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, {"specdec": json.dumps({"format": FORMAT, **facts})})

    @classmethod
    def load(cls, path: str | Path, target: Target) -> KeyValueBases:
        """Read a file that `save` wrote for this model.

        Raises InvalidArgument, saying why, if it cannot be read or is another model's.
        """
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get("specdec", "{}"))
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise InvalidArgument(
                f"calibration={str(path)!r} cannot be read ({error}): give 'auto' or a file; {HOW}"
            ) from error
        if facts.get("format") != FORMAT:
            raise InvalidArgument(f"calibration: {path} holds no key and value bases; {HOW}")
        if facts["fingerprint"] != fingerprint(target):
            raise InvalidArgument(
                f"calibration: {path} was made for another model than this "
                f"{type(target.model).__name__} of {target.num_layers} layers; {HOW} for a model "
                "that --model names"
            )
        wanted = {f"{n}.{name}" for n in target.full_layers for name in "kv"}
        if facts["layers"] != target.num_layers or tensors.keys() != wanted:
            raise InvalidArgument(f"calibration: {path} is cut or changed; {HOW}")
        layers = [
            (tensors[f"{n}.k"], tensors[f"{n}.v"]) if f"{n}.k" in tensors else None
            for n in range(facts["layers"])
        ]
        return cls(facts["fingerprint"], facts["text"], tuple(layers))


@torch.inference_mode()
def measure_bases(target: Target, tokens: Sequence[int], text: str) -> KeyValueBases:
    """The leading eigenvectors of the second moments over the first `TOKENS` of a text.

    CSKV (arXiv 2409.10593) begins with the SVD of the projections W scaled by the size of their
    inputs, and tunes A, B to the least |B A x - W x|^2 over a text. That has a solution in closed
    form, which this is: of all maps of a rank the projection on these directions is the nearest
    to W x (Eckart and Young 1936), q/k norm and biases included. The paper's tuning for
    quantised features is not.
    """
    tokens = list(tokens)[: min(TOKENS, target.max_positions)]
    store = KVStore(target.num_layers, 1, len(tokens))  # on the device, wherever caches go
    target.prefill(store, FullView(), 0, tokens)
    rotation, (level,) = KeyRotation.of(target, "cskv"), store.levels
    layers: list[tuple[Tensor, Tensor] | None] = [None] * target.num_layers
    for layer in target.full_layers:
        k, v = level.k[layer], level.v[layer]
        assert k is not None and v is not None
        keys, values = k[0, :, : len(tokens)], v[0, :, : len(tokens)]
        if rotation is not None:
            keys = rotation.turn_back(keys, torch.arange(len(tokens)), layer)
        layers[layer] = _strongest(keys), _strongest(values)
    return KeyValueBases(fingerprint(target), text, tuple(layers))


def _strongest(x: Tensor) -> Tensor:
    """Directions `[Hkv * D, rank]` of `x[Hkv, n, D]`."""
    flat = x.transpose(0, 1).flatten(1).double()
    return directions(flat.mT @ flat, max(1, round(LARGEST * flat.shape[1]))).float()
