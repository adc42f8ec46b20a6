"""Snapshot: what modules of a model are made of, and whether that is still so.

PyTorch lets anybody hang hooks on a module, replace its parts and its forward, or change its
weights. Who has worked something out from a module looks here whether it still holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as global_hooks


class Snapshot:
    """Hooks, parts and forwards of `modules` as they stand now, to be compared in every pass.

    All comparing is done in C, over dictionaries that are gathered once: 35 us for the 390 modules
    of 30 decoder layers.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        spaces = [vars(module) for module in dict.fromkeys(modules)]
        self._spaces, self._sizes = spaces, list(map(len, spaces))
        self._hooks = (
            global_hooks._global_forward_hooks,
            global_hooks._global_forward_pre_hooks,
            *(s[kind] for s in spaces for kind in ("_forward_hooks", "_forward_pre_hooks")),
        )
        self.has_hooks = any(self._hooks)
        self._hook_counts = list(map(len, self._hooks))
        self._tables = [s["_modules"] for s in spaces if s["_modules"]]
        self._counts = list(map(len, self._tables))
        self._parts = list(chain.from_iterable(map(dict.values, self._tables)))
        self._patched = [s for s in spaces if "forward" in s]
        self._forwards = [s["forward"] for s in self._patched]
        self.is_patched = bool(self._patched)

    def holds(self) -> bool:
        """Whether nobody has hung on or taken off a hook, or exchanged a part or a forward."""
        if any(self._hooks) != self.has_hooks:
            return False
        if self.has_hooks and list(map(len, self._hooks)) != self._hook_counts:
            return False
        return (
            list(map(len, self._spaces)) == self._sizes
            and list(map(len, self._tables)) == self._counts
            and all(map(is_, chain.from_iterable(map(dict.values, self._tables)), self._parts))
            and all(map(is_, map(dict.get, self._patched, repeat("forward")), self._forwards))
        )


class Replays:
    """Whether passes of a model may be replayed without calling it.

    Not while anybody hangs on it, or has patched it: they are to be called in every pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._take()

    def _take(self) -> None:
        self._snapshot = Snapshot(self._model.modules())
        self._addresses = self._addresses_now()

    def _addresses_now(self) -> list[int]:
        return [address(x) for x in (*self._model.parameters(), *self._model.buffers())]

    def hold(self, in_full: bool = False) -> bool:
        """Whether the model is what it was when last asked; in_full: its weights' places, too."""
        same = self._snapshot.holds()
        if same and in_full:
            same = self._addresses_now() == self._addresses
        if not same:
            self._take()
        return same

    @property
    def are_allowed(self) -> bool:
        """Whether nobody hangs on it."""
        return not self._snapshot.has_hooks and not self._snapshot.is_patched


class Anatomy:
    """All that one module computes by, as far as it can be seen from outside, at some time."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._modules = list(root.modules())
        self._names = [
            [name for name in vars(module) if name[0] != "_" and name not in _BESIDES]
            for module in self._modules
        ]
        self._parts, self._weights = self._now()  # kept: no other object can have one of their ids
        self._addresses = list(map(address, self._weights))

    def holds(self) -> bool:
        """Whether the modules inside are the same objects, of the same classes, with the same
        forwards and settings, without hooks, and with the same weights at the same addresses."""
        if list(self.root.modules()) != self._modules or any(map(has_hooks, self._modules[1:])):
            return False
        parts, weights = self._now()
        return (
            len(weights) == len(self._weights)
            and all(map(is_, parts, self._parts))
            and all(map(is_, weights, self._weights))
            and list(map(address, weights)) == self._addresses
        )

    def _now(self) -> tuple[list[Any], list[Tensor]]:
        parts: list[Any] = []
        weights: list[Any] = []
        for module, names in zip(self._modules, self._names, strict=True):
            space = vars(module)
            parts += [type(module), type(module).forward, *map(space.get, names)]
            if module is not self.root:
                parts.append(space.get("forward"))
            weights += space["_parameters"].values()
            weights += space["_buffers"].values()
        return parts, [x for x in weights if x is not None]


_BESIDES = ("training", "forward")


def address(weight: Tensor) -> int:
    """Where a tensor's numbers lie; 0 for one that keeps them in a way of its own."""
    try:
        return weight.data_ptr()
    except RuntimeError:
        return 0


def version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None of one that does not count."""
    return None if tensor.is_inference() else tensor._version


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody is called before or behind the module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_global_hooks() -> bool:
    """Whether somebody is called around the forward of every module of the process."""
    return bool(global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks)
