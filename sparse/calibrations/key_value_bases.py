"""KeyValueBases: the directions in which a layer's keys and values mostly lie, measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.layer_pairs import LayerPairs
from specdec.sparse.fingerprint import fingerprint
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.maths.low_rank import directions

TOKENS = 2048  # of the text, from its start
LARGEST = 0.75  # share of the directions that is kept: CSKV's largest


@dataclass(frozen=True, eq=False)
class KeyValueBases(LayerPairs):
    """For each layer orthonormal directions `[Hkv * D, rank]` of its keys before rotation and of
    its values, all heads together, the strongest first; None for a sliding window.
    """

    format = "specdec key and value bases 1"
    of_what = "key and value bases"
    names = ("k", "v")
    how = "`specdec calibrate cskv FILE` makes some"

    def of(self, part: int) -> dict[int, Tensor]:
        """Those of keys (0) or of values (1), by layer."""
        return {n: layer[part] for n, layer in enumerate(self.layers) if layer is not None}


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
