"""Watch: which decoder layers are still what their fused forms were made from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from specdec.model.fused_layer import FusedLayer
from specdec.model.snapshot import Anatomy, Snapshot, has_global_hooks, has_hooks, version

log = logging.getLogger("specdec")


class Watch:
    """Layers that have to be called by themselves, or by their own forward.

    A hook inside a layer, a patched forward, another part, or weights that were changed, and the
    layer keeps its own forward for as long as that lasts; a hook on the layer itself, or another
    layer in its place, and it is called by itself. `look` is to be called before each pass; what
    shows only in the weights' numbers and addresses is looked at when `begin` has been called.

    alone, own: the layers concerned; own ones are alone. is_over: whether the packing was undone.
    """

    def __init__(self, base: nn.Module, layers: Mapping[nn.Module, FusedLayer]) -> None:
        self._base, self._order = base, list(_layers_of(base))
        self._layers = [layer for layer in self._order if layer in layers]
        self._anatomies = {layer: Anatomy(layer) for layer in self._layers}
        self._copies = {layer: _Copies(layer, layers[layer]) for layer in self._layers}
        self._forwards: dict[nn.Module, object] = {}
        self.alone: frozenset[nn.Module] = frozenset()
        self.own: frozenset[nn.Module] = frozenset()
        self._snapshot: Snapshot | None = None
        self.is_over = False

    def start(self) -> None:
        """From now on, the layers' forwards are those that stand in for them."""
        self._forwards = {layer: vars(layer).get("forward") for layer in self._layers}
        self.begin()

    def begin(self) -> None:
        """Have the next `look` see everything."""
        self._snapshot = None

    def end(self) -> None:
        """From now on, all layers have their own forward: whoever still holds the others."""
        self.is_over = True
        self.alone = self.own = frozenset(self._layers)

    def look(self) -> None:
        """Bring `alone` and `own` up to date; a line in the log for layers that are new there."""
        if self.is_over or (self._snapshot is not None and self._snapshot.holds()):
            return
        order = _layers_of(self._base)
        snapshot = Snapshot([self._base, *order.modules()])
        own = frozenset(
            layer for layer in self._layers
            if has_global_hooks() or not self._anatomies[layer].holds()
            or not self._copies[layer].hold()
        )  # fmt: skip
        if own - self.own:
            log.warning(
                "%d of %d fused layers have hooks, other parts or other weights by now: they keep "
                "their own forward, which is slower",
                len(own), len(self._layers),
            )  # fmt: skip
        moved = set(self._order) - {
            layer for layer, there in zip(self._order, order, strict=False) if layer is there
        }
        self.own, self.alone = own, own | moved | {
            layer for layer, forward in self._forwards.items()
            if has_hooks(layer) or vars(layer).get("forward") is not forward
        }  # fmt: skip
        self._snapshot = snapshot  # last: another thread may ask meanwhile


def _layers_of(base: Any) -> nn.ModuleList:
    layers: nn.ModuleList = base.layers
    return layers


class _Copies:
    """Weights of a layer of which its fused form has copies: `1 + weight` of a norm."""

    def __init__(self, layer: nn.Module, fused: FusedLayer) -> None:
        shared = {x.data_ptr() for x in _tensors((fused.inputs, fused.output, fused.settings))}
        self._sources = [
            weight
            for weight in layer.parameters()
            if weight.dim() == 1 and weight.data_ptr() not in shared
        ]
        self._versions = list(map(version, self._sources))
        self._numbers = self._now()

    def hold(self) -> bool:
        """Whether the weights are still what was copied."""
        return not self._sources or (
            list(map(version, self._sources)) == self._versions
            and torch.equal(self._now(), self._numbers)
        )

    def _now(self) -> Tensor:
        return torch.cat([x.detach() for x in self._sources]) if self._sources else torch.empty(0)


def _tensors(x: Any) -> list[Tensor]:
    """All plain tensors in nested dataclasses and tuples."""
    if isinstance(x, Tensor):
        return [x]
    if is_dataclass(x):
        return [t for part in fields(x) for t in _tensors(getattr(x, part.name))]
    return [t for part in x for t in _tensors(part)] if isinstance(x, tuple) else []
