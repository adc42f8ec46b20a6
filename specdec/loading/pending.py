"""Pending: a tensor of a safetensors file that is read when somebody computes with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor
from torch.utils._pytree import tree_map

from specdec.kernels.linear.packed_formats import BFloat16, Float16
from specdec.kernels.linear.packed_weight import PanelWeight, pack, pack_halves
from specdec.loading.mapped import forget, map_file

# By type of the file: as NumPy has it; bfloat16 by its bits.
_FLOATS: dict[str, Any] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


class Pending(Tensor):
    """A float32 tensor on the CPU whose numbers are still in a mapped file, in 16 or 32 bits.

    It may be handed about, made a parameter and asked for its shape; whatever else is done with it
    is done with its numbers, read for that.
    """

    bits: NDArray[Any]
    kind: str

    @staticmethod
    def __new__(cls, bits: NDArray[Any], kind: str) -> Pending:
        one: Pending = torch.Tensor._make_wrapper_subclass(cls, bits.shape, dtype=torch.float32)
        one.bits, one.kind = bits, kind
        return one

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__getitem__ and isinstance(args[0], Pending) and args[1] is ...:
            return args[0]  # as loaders read a whole tensor
        with torch._C.DisableTorchFunctionSubclass():  # results are tensors like any other
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:  # how a Parameter is made
            return cls(args[0].bits, args[0].kind)
        args, kwargs = tree_map(_read, (args, kwargs or {}))
        return func(*args, **kwargs)

    def dense(self) -> Tensor:
        """The numbers, a copy."""
        if self.kind == "BF16":
            values = (self.bits.astype(np.uint32) << 16).view(np.float32)
        else:
            values = self.bits.astype(np.float32)
        forget(self.bits)
        return torch.from_numpy(values)

    def panels(self) -> PanelWeight:
        """A matrix in panels, in the precision of the file, or a narrower one that is exact."""
        if self.kind == "F32":
            return pack(self.dense())
        kind: Any = BFloat16 if self.kind == "BF16" else Float16
        weight = pack_halves(self.bits.view(np.uint16), kind)
        forget(self.bits)
        return weight


# From a weight's name and numbers, and whether it is the head's or the embedding's, to its panels.
Packs = Callable[[str, Pending, bool], PanelWeight]


def pending(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of some safetensors files, by name: floats of 16 and 32 bits pending."""
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as opened:  # which looks whether it is whole
            content = map_file(file)
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            for name in opened.keys():  # noqa: SIM118
                kind, shape = header[name]["dtype"], header[name]["shape"]
                if kind not in _FLOATS or 0 in shape:
                    found[name] = opened.get_tensor(name)
                    continue
                at = 8 + size + header[name]["data_offsets"][0]
                count = int(np.prod(shape))
                bits = np.frombuffer(content, _FLOATS[kind], count, at).reshape(shape)
                found[name] = Pending(bits, kind)
    return found


def _read(x: Any) -> Any:
    return x.dense() if isinstance(x, Pending) else x
