"""Tape: on a CPU what a capture is on a GPU, and stricter: it says what a graph would get wrong.

A pass is run once while every operator of PyTorch and every launch of our kernels is written down
with its arguments: tensors by address, numbers as they are. A replay runs them again and writes the
results to the tensors that were written before. Views are addresses and are not made again; memory
that is only allocated is filled with NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from specdec.cache.level import Level
from specdec.forward.static_inputs import PassInputs
from specdec.kernels.dispatch import Op
from specdec.sparse.device.level_index import LevelIndex
from specdec.sparse.device.selections import StaticSelections

HOST_READS = {
    "tolist", "numpy", "item", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__",
    "nonzero",
}  # fmt: skip
SHAPED_BY_DATA = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2",
    "aten::unique_consecutive", "aten::bincount", "aten::equal", "aten::is_nonzero",
}  # fmt: skip


_homes: WeakSet[Any] = WeakSet()  # whatever keeps memory on the device


def _noticed(kind: type) -> None:
    made = kind.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        _homes.add(self)

    kind.__init__ = init  # type: ignore[misc]


for _kind in (Level, PassInputs, LevelIndex, StaticSelections):
    _noticed(_kind)


class HostError(RuntimeError):
    """A pass asked the host, or gave it something to do, where a graph has no host."""


class Tape:
    """A capture (`specdec.forward.cuda_graphs.Capture`) for passes of `model` on a CPU."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.nbytes = model, 0

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        run()
        recording = _Recording(self._at_home())
        with recording.watched():
            result = run()
        return result, recording.replay

    def _at_home(self) -> set[int]:
        """Memory that stays where it is: weights, and what stores and inputs keep on the device."""
        kept = [*self.model.parameters(), *self.model.buffers()]
        for module in self.model.modules():
            kept += [x for x in vars(module).values() if isinstance(x, Tensor)]
        for x in list(_homes):
            if isinstance(x, Level):
                kept += [t for t in (*x.k, *x.v, *x._near.values()) if t is not None]
            elif isinstance(x, PassInputs):
                kept.append(x.buffer)
            elif isinstance(x, (LevelIndex, StaticSelections)):
                kept += x.tensors
        return {_memory(x) for x in kept}


class _Recording:
    def __init__(self, at_home: set[int]) -> None:
        self.at_home, self.calls, self.is_inside = at_home, [], False

    def watched(self):
        return _Watch(self)

    def note(self, call: Callable[..., Any], args: Any, kwargs: Any, is_launch: bool) -> Any:
        """Run a call and write it down."""
        taken = _tensors((args, kwargs))
        for x in taken:
            if x.numel() and _memory(x) not in self.at_home:
                raise HostError(f"{call}: an input {tuple(x.shape)} that is not on the device")
        self.is_inside = True
        try:
            out = call(*args, **kwargs)
        finally:
            self.is_inside = False
        held = {_memory(x) for x in taken}
        fresh = [x for x in _tensors(out) if _memory(x) not in held]
        self.at_home |= {_memory(x) for x in fresh}
        schema = getattr(call, "_schema", None)
        if fresh or is_launch or (schema is not None and schema.is_mutable):
            self.calls.append((call, args, kwargs, out, held))
        return out

    def replay(self) -> None:
        with torch.inference_mode():
            for call, args, kwargs, out, held in self.calls:
                again = call(*args, **kwargs)
                is_empty = "empty" in getattr(call, "__name__", "")
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if _memory(old) not in held:
                        if is_empty:
                            old.fill_(torch.nan if old.is_floating_point() else 77)
                        else:
                            old.copy_(new)


class _Watch:
    """Both modes, and our kernels' launches, for as long as a recording goes on."""

    def __init__(self, recording: _Recording) -> None:
        self.recording, self.modes = recording, [_Functions(recording), _Operators(recording)]

    def __enter__(self) -> None:
        self.launch = Op.__call__
        recording, launch = self.recording, self.launch

        def noted(op: Op[..., Any], *args: Any, **kwargs: Any) -> Any:
            if recording.is_inside:
                return launch(op, *args, **kwargs)
            if "triton" not in op._kinds:  # on a GPU, too, it is made of PyTorch's operators
                return op.plain(*args, **kwargs)
            return recording.note(lambda *a, **k: launch(op, *a, **k), args, kwargs, True)

        Op.__call__ = noted
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)
        Op.__call__ = self.launch


class _Functions(TorchFunctionMode):
    """What never reaches an operator: reading a tensor on the host."""

    def __init__(self, recording: _Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if not self.recording.is_inside and name in HOST_READS:
            raise HostError(f"{resolve_name(func) or name} within a captured pass")
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, recording: _Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.recording.is_inside:
            return func(*args, **kwargs)
        if func._schema.name in (
            "aten::lift_fresh",
            "aten::detach_",
        ):  # the host's own: it may be made, not read
            return func(*args, **kwargs)
        masks = func._schema.name.startswith("aten::index") and any(
            x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1:2])
        )
        if func._schema.name in SHAPED_BY_DATA or masks:
            raise HostError(f"{func} within a captured pass: the host would have to wait for it")
        return self.recording.note(func, args, kwargs, False)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_flatten(tree)[0] if isinstance(x, Tensor)]


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata
