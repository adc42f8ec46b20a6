"""ModelBuilder: a transformers model from a GGUF, every parameter of it from the file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdec.errors import UnsupportedModel, WeightsError
from specdec.kernels.linear.packed_formats import BFloat16, Float16
from specdec.kernels.linear.packed_weight import (
    PanelWeight,
    pack,
    pack_groups,
    pack_halves,
    pack_stored,
)
from specdec.kernels.linear.stored.formats import FORMATS, KINDS
from specdec.loading.gguf.blocks import TYPES, decode
from specdec.loading.gguf.blueprint import Blueprint, Source
from specdec.loading.gguf.file import GGUFFile
from specdec.loading.gguf.tensor import Tensor as StoredTensor
from specdec.model.released import release
from specdec.model.released_experts import release_experts
from specdec.progress import Progress

HALVES: dict[str, Any] = {"BF16": BFloat16, "F16": Float16}
_FLOATS = ("F32", "F64", *HALVES)


@dataclass
class ModelBuilder:
    """Builds the model of a file once, on the CPU.

    dtype: of its parameters: the file's values, dequantised in float32 and then rounded.
    as_stored: weights of linear layers and of the embedding are `Released`: made into panels in the
    file's precision, one tensor at a time, and nowhere dense. A head that is the embedding, too,
    shares its panels. rounds: panels hold the file's own blocks where products with activations in
    8 bits know them.
    """

    file: GGUFFile
    blueprint: Blueprint
    dtype: torch.dtype
    as_stored: bool = False
    rounds: bool = False
    model: PreTrainedModel = field(init=False)

    def __post_init__(self) -> None:
        """The model without parameters, but with its buffers, which are computed."""
        auto: Any = AutoModelForCausalLM
        with init_empty_weights(include_buffers=False):
            self.model = auto.from_config(self.blueprint.config, dtype=self.dtype)
        self.model.eval()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that `build` will fill, or more where a type is read as floats."""
        total = 0
        for name, source in self.blueprint.sources.items():
            if self._is_held(name):
                total += sum(self._panel_bytes(tensor) for tensor in self._matrices(source))
                continue
            tensors = [self.file.tensors[tensor] for tensor in source.tensors]
            total += sum(math.prod(tensor.shape) for tensor in tensors) * self.dtype.itemsize
        return total

    @property
    def widened(self) -> dict[str, int]:
        """Bytes in memory of matrices that are quantised in the file and will be floats, by type:
        where there are no panels for the type, or for what is made of them."""
        found: Counter[str] = Counter()
        for name, source in self.blueprint.sources.items() if self.as_stored else ():
            is_held = self._is_held(name)
            for tensor in (self.file.tensors[tensor] for tensor in source.tensors):
                has_panels = is_held and tensor.kind in TYPES
                if len(tensor.shape) > 1 and tensor.kind not in _FLOATS and not has_panels:
                    found[tensor.kind] += math.prod(tensor.shape) * self.dtype.itemsize
        return dict(found)

    def rounded(self, name: str) -> bool:
        """Whether products of a linear layer, by its name, will round their inputs."""
        source = self.blueprint.sources.get(name + ".weight")
        tensor = None if source is None else self._only(source)
        return self.rounds and tensor is not None and tensor.kind in KINDS

    def build(self, progress: Progress) -> PreTrainedModel:
        """The model. Raises WeightsError for a wrong shape."""
        for done, (name, source) in enumerate(self.blueprint.sources.items()):
            progress(done, len(self.blueprint.sources))
            if self._is_held(name) and source.experts:
                experts = list(zip(*map(self._experts, source.experts), strict=True))
                parameter = release_experts(experts)
                self._check_shape(name, source, tuple(parameter.shape))
                self.model.set_experts_implementation("eager")  # which takes one after the other
            elif self._is_held(name):
                panels = self._panels(name, source)
                self._check_shape(name, source, (panels.outputs, panels.inputs))
                parameter = release(panels)
            else:
                parameter = nn.Parameter(self._value(name, source), requires_grad=False)
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, parameter)
            self.file.forget(source.tensors)
        self.model.tie_weights()
        empty = [name for name, parameter in self.model.named_parameters() if parameter.is_meta]
        if empty:
            raise UnsupportedModel(
                f"{type(self.model).__name__} has a parameter {empty[0]} that no tensor of a GGUF "
                "is known for: give a safetensors folder of the same model instead"
            )
        return self.model

    def state(self) -> dict[str, Tensor]:
        """All parameters by name, for loaders that place them by themselves."""
        sources = self.blueprint.sources
        state = {name: self._value(name, source) for name, source in sources.items()}
        if (embedding := self._embedding()) and self.blueprint.config.tie_word_embeddings:
            state[self._name(self.model.get_output_embeddings()) + ".weight"] = state[embedding]
        return state

    def _is_held(self, name: str) -> bool:
        """Whether a parameter is to be in panels: a linear layer's weight, the embedding's, or
        experts' where each is a matrix of its own."""
        if not self.as_stored or not name.endswith(".weight"):
            return self.as_stored and bool(self.blueprint.sources[name].experts)
        module = self.model.get_submodule(name.removesuffix(".weight"))
        return type(module) is nn.Linear or module is self.model.get_input_embeddings()

    def _panels(self, name: str, source: Source) -> PanelWeight:
        tensor = self._only(source)
        if tensor is None:
            return pack(self._value(name, source))
        rows = tensor.data if source.rows is None else tensor.data[source.rows]
        return self._packed(tensor._replace(data=rows))

    def _experts(self, names: tuple[str, ...]) -> list[PanelWeight]:
        """The matrix of each expert, of one tensor with all of them or of one each."""
        found = []
        for name in names:
            tensor = self.file.tensors[name]
            if len(tensor.shape) not in (2, 3) or (len(tensor.shape) == 2 and len(names) == 1):
                raise WeightsError(f"{self.file.path}: {name} has the shape {list(tensor.shape)}")
            count, shape = math.prod(tensor.shape[:-2]), tensor.shape[-2:]
            for data in np.split(tensor.data, count):
                found.append(self._packed(StoredTensor(tensor.kind, shape, data)))
        return found

    def _packed(self, tensor: StoredTensor) -> PanelWeight:
        """A matrix, in panels of its type or, where there are none, of floats that hold it."""
        kind, data = tensor.kind, tensor.data
        if self.rounds and kind in KINDS:
            return pack_stored(kind, data)
        if kind in HALVES:
            return pack_halves(np.ascontiguousarray(data).view(np.uint16), HALVES[kind])
        if kind not in TYPES:
            return pack(torch.from_numpy(tensor.values()))
        codes = decode(kind, data)
        return pack_groups(codes.codes, codes.scale, codes.minimum, codes.bits)

    def _panel_bytes(self, tensor: StoredTensor) -> int:
        if self.rounds and tensor.kind in KINDS:
            return round(tensor.data.nbytes * FORMATS[KINDS[tensor.kind]].growth)
        if tensor.kind in HALVES:
            return tensor.data.nbytes
        if tensor.kind not in TYPES:
            return math.prod(tensor.shape) * self.dtype.itemsize
        return round(math.prod(tensor.shape) * _bits(tensor.kind, tensor.data) / 8)

    def _matrices(self, source: Source) -> list[StoredTensor]:
        return [self.file.tensors[name] for name in source.tensors]

    def _only(self, source: Source) -> StoredTensor | None:
        """The tensor that a parameter is, if it is one of a type that panels have."""
        if source.make is not None or len(source.tensors) != 1:
            return None
        tensor = self.file.tensors[source.tensors[0]]
        is_known = tensor.kind in TYPES or tensor.kind in HALVES
        return tensor if is_known and len(tensor.shape) == 2 else None

    def _embedding(self) -> str:
        return self._name(self.model.get_input_embeddings()) + ".weight"

    def _name(self, module: nn.Module | None) -> str:
        return next(name for name, other in self.model.named_modules() if other is module)

    def _value(self, name: str, source: Source) -> Tensor:
        value = torch.from_numpy(source.values(self.file))
        self._check_shape(name, source, tuple(value.shape))
        return value.to(self.dtype)

    def _check_shape(self, name: str, source: Source, shape: tuple[int, ...]) -> None:
        wanted = tuple(self.model.get_parameter(name).shape)
        if shape != wanted:
            raise WeightsError(
                f"{self.file.path}: {' and '.join(source.tensors)} would make {name} "
                f"{list(shape)}, and the file's keys say {list(wanted)}"
            )


def _bits(kind: str, data: Any) -> float:
    """Bits of a weight in panels, its share of scales included, by its first row."""
    codes = decode(kind, data[:1])
    scales = codes.scale.nbytes + (0 if codes.minimum is None else codes.minimum.nbytes)
    return codes.bits + 8 * scales / codes.codes.size
