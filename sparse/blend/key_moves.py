"""KeyMoves: keys of a model moved from one place in a text to another."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.errors import UnsupportedModel
from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.forward.observer import SeenPass
from specdec.kernels.precision import wide
from specdec.model.target import Target
from specdec.sparse.maths.key_rotation import KeyRotation

PLACE = 1009  # where a token is tried, or at the model's last place: far, and no round number
_TOLERANCE = 0.02  # of a key's length; bfloat16 rounds to 0.004


class KeyMoves:
    """Turns keys by the model's own rotation, in those layers that rotate at all.

    What is so is tried: a text of one token sees itself alone, so wherever it stands, nothing but
    the rotation of its keys may tell. Raises UnsupportedModel, with the model's name, where
    positions come into keys in any other way (learned ones, say), or depend on a text's length.
    """

    def __init__(self, target: Target, token: int = 0) -> None:
        name = type(target.model).__name__
        if not target.rotation.is_fixed:
            raise UnsupportedModel(
                f"keys of {name} cannot be moved, because their rotation depends on how long the "
                "text is: leave out cacheblend, and saved documents are read as one text"
            )
        rotation = KeyRotation.of(target, "cacheblend")
        if rotation is None:
            raise UnsupportedModel(
                f"keys of {name} cannot be moved, because it adds positions to its embeddings: "
                "leave out cacheblend, and saved documents are read as one text"
            )
        self._rotation = rotation
        self._turns = [True] * target.num_layers
        place = min(PLACE, target.max_positions - 1)
        here, there = _keys_at(target, token, 0), _keys_at(target, token, place)
        for layer, (k, moved) in enumerate(zip(here, there, strict=True)):
            if _are_close(self(layer, k, 0, place), moved):
                continue
            self._turns[layer] = False
            if not _are_close(k, moved):
                raise UnsupportedModel(
                    f"keys of {name} cannot be moved: those of layer {layer}, turned to another "
                    "place, are not what the model makes there; leave out cacheblend, and saved "
                    "documents are read as one text"
                )

    def __call__(self, layer: int, k: Tensor, old: int, new: int) -> Tensor:
        """Keys `[Hkv, n, D]` that were cached at places `old` ... `old + n - 1`, as they are at
        `new` ...; rounded once."""
        if old == new or not self._turns[layer]:
            return k
        places = torch.arange(k.shape[1], device=k.device)
        wider = wide(k)
        bare = self._rotation.turn_back(wider, places + old, layer)
        return self._rotation.turn(bare, places + new, layer).to(k.dtype)


def _keys_at(target: Target, token: int, place: int) -> list[Tensor]:
    """The keys `[Hkv, 1, D]` of each layer for a text of one token at a place."""
    seen, where = _Keys(), torch.tensor([[place]], device=target.device)
    pass_ = ForwardPass(
        KVStore(target.num_layers, 1, 1), FullView(), [0], where,
        anc=torch.ones(1, 1, 1, dtype=torch.int64, device=target.device), staged_positions=where,
        observers=[seen], layers=target.num_layers,
    )  # fmt: skip
    target.read([[token]], pass_)
    return [seen.k[layer].to(target.device) for layer in range(target.num_layers)]


class _Keys:
    """An observer that keeps the keys of a pass."""

    def __init__(self) -> None:
        self.k: dict[int, Tensor] = {}

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        self.k[call.layer] = call.k[0].clone()


def _are_close(k: Tensor, other: Tensor) -> bool:
    return bool((k.float() - other.float()).norm() <= _TOLERANCE * other.float().norm())
