"""Codec: how keys and values of a draft's copy are kept in less, together or each for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from specdec.forward.plan import Partial
from specdec.sparse.codecs.base import Parts, Place, Side

Coded = tuple[Parts, ...]


class Codec(Protocol):
    """Encodes blocks of `block` tokens: keys and values `[Hkv, P, S, D]`, see `Side`.

    keeps_values: else it is shown values without channels, `[Hkv, P, S, 0]`, and gives such back.
    """

    @property
    def block(self) -> int: ...

    @property
    def keeps_values(self) -> bool: ...

    def learn(self, k: Tensor, v: Tensor, at: Place) -> Any: ...

    def encode(self, k: Tensor, v: Tensor, at: Place, learned: Any) -> Coded: ...

    def decode(self, coded: Coded, at: Place, learned: Any) -> tuple[Tensor, Tensor]: ...

    def attend(
        self, coded: Coded, q: Tensor, end: int, scale: float, softcap: float | None
    ) -> Partial | None:
        """Attention of `q[B, H, N, D]` over the first `end` tokens of buffers of one layer, which
        may be longer, as a kernel reads them; None where they have to be decoded first."""


class Decoded:
    """A codec whose blocks are given back before they are read."""

    def attend(
        self, coded: Coded, q: Tensor, end: int, scale: float, softcap: float | None
    ) -> Partial | None:
        return None


@dataclass(frozen=True)
class TwoSides(Decoded):
    """Keys by one side, values by another."""

    keys: Side
    values: Side
    block: int
    keeps_values = True

    def learn(self, k: Tensor, v: Tensor, at: Place) -> tuple[Any, Any]:
        return self.keys.learn(k, at), self.values.learn(v, at)

    def encode(self, k: Tensor, v: Tensor, at: Place, learned: tuple[Any, Any]) -> Coded:
        return self.keys.encode(k, at, learned[0]), self.values.encode(v, at, learned[1])

    def decode(self, coded: Coded, at: Place, learned: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        k = self.keys.decode(coded[0], at, learned[0])
        return k, self.values.decode(coded[1], at, learned[1])


@dataclass(frozen=True)
class KeysAlone(Decoded):
    """Keys by a side; values are left where they are."""

    keys: Side
    block: int
    keeps_values = False

    def learn(self, k: Tensor, v: Tensor, at: Place) -> Any:
        return self.keys.learn(k, at)

    def encode(self, k: Tensor, v: Tensor, at: Place, learned: Any) -> Coded:
        return (self.keys.encode(k, at, learned),)

    def decode(self, coded: Coded, at: Place, learned: Any) -> tuple[Tensor, Tensor]:
        k = self.keys.decode(coded[0], at, learned)
        return k, k[..., :0]
