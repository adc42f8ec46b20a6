"""Sharing: which layers score, which reuse another's choice, and which stay dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.errors import InvalidArgument


@dataclass(frozen=True)
class Sharing:
    """A plan over the layers with full attention; sliding-window layers always read their window.

    dense: layers that read everything. anchors: layers that choose pages for themselves and for the
    layers up to the next anchor; None makes every layer choose for itself (Quest). A layer below
    the first anchor is dense. exact_anchors: an anchor reads everything itself, which makes its
    scores exact at no extra read (TidalDecode); else it reads what it chose.
    all_heads: one choice for all KV heads of a layer, not one for each.
    """

    dense: tuple[int, ...] = ()
    anchors: tuple[int, ...] | None = None
    exact_anchors: bool = False
    all_heads: bool = False

    def anchor_of(self, layer: int) -> int | None:
        """The layer whose choice `layer` reads, itself perhaps; None if it reads everything."""
        if layer in self.dense:
            return None
        if self.anchors is None:
            return layer
        return max((anchor for anchor in self.anchors if anchor <= layer), default=None)

    def reads_all(self, layer: int) -> bool:
        """Whether `layer` reads every key."""
        anchor = self.anchor_of(layer)
        return anchor is None or (anchor == layer and self.exact_anchors)

    def check(self, layer_types: Sequence[str]) -> None:
        """Raise InvalidArgument unless the plan fits a model with these layers."""
        for name, layers in (("anchors", self.anchors or ()), ("dense", self.dense)):
            for layer in layers:
                if not 0 <= layer < len(layer_types):
                    raise InvalidArgument(
                        f"{name} name layer {layer}, and the model has layers 0 to "
                        f"{len(layer_types) - 1}"
                    )
        if self.anchors is not None and not self.anchors:
            raise InvalidArgument("anchors=() names no layer: give at least one, or leave it out")
        for layer in self.anchors or ():
            if layer in self.dense:
                raise InvalidArgument(
                    f"anchor {layer} is a dense layer, which reads everything and chooses nothing: "
                    f"give anchors outside dense={self.dense}, or dense=() as well"
                )
            if layer_types[layer] == "sliding_attention":
                full = [i for i, kind in enumerate(layer_types) if kind != "sliding_attention"]
                raise InvalidArgument(
                    f"anchor {layer} is a sliding-window layer, which sees too little to choose "
                    f"for others; layers with full attention are {full}"
                )
