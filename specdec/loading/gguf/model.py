"""ModelBuilder: a transformers model from a GGUF, every parameter of it from the file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdec.errors import UnsupportedModel, WeightsError
from specdec.kernels.linear.packed_weight import PanelWeight, pack_groups, pack_stored
from specdec.kernels.linear.stored.formats import FORMATS, KINDS
from specdec.loading.gguf.blocks import TYPES, decode
from specdec.loading.gguf.blueprint import Blueprint, Source
from specdec.loading.gguf.file import GGUFFile
from specdec.model import support
from specdec.model.released import release
from specdec.progress import Progress


@dataclass
class ModelBuilder:
    """Builds the model of a file once, on the CPU.

    dtype: of its parameters: the file's values, dequantised in float32 and then rounded.
    as_stored: linear layers whose blocks we read come as panels in the file's precision, beside the
    model, and their dense weight is `Released`: `Packing.of` takes the panels, and `restore` makes
    one. Architectures whose own forward is still to be compared with ours keep a dense one beside
    it, as does a head that is the embedding, too.
    rounds: panels hold the file's own blocks where products with activations in 8 bits know them.
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
        self._keeps_dense = not support.is_tested(self.model)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that `build` will fill."""
        total = 0
        for name, source in self.blueprint.sources.items():
            tensors = [self.file.tensors[tensor] for tensor in source.tensors]
            values = sum(math.prod(tensor.shape) for tensor in tensors)
            is_stored = self._is_stored(name, source)
            if is_stored and self.rounds and tensors[0].kind in KINDS:
                total += round(tensors[0].data.nbytes * FORMATS[KINDS[tensors[0].kind]].growth)
            elif is_stored:
                total += math.prod(tensors[0].shape) * _bits(tensors[0].kind, tensors[0].data) // 8
            if not is_stored or self._keeps_dense:
                total += values * self.dtype.itemsize
        return total

    def build(self, progress: Progress) -> tuple[PreTrainedModel, dict[str, PanelWeight]]:
        """The model, and panels by module name. Raises WeightsError for a wrong shape."""
        stored: dict[str, PanelWeight] = {}
        for done, (name, source) in enumerate(self.blueprint.sources.items()):
            progress(done, len(self.blueprint.sources))
            if self._is_stored(name, source):
                owner = name.removesuffix(".weight")
                stored[owner] = panels = self._panels(source)
                self._check_shape(name, source, (panels.outputs, panels.inputs))
                if not self._keeps_dense:
                    shape = panels.outputs, panels.inputs
                    self._put(name, release(torch.empty(shape, dtype=self.dtype)))
                    continue
            self._put(name, nn.Parameter(self._value(name, source), requires_grad=False))
        self.model.tie_weights()
        stored |= self._tied_head()
        empty = [name for name, parameter in self.model.named_parameters() if parameter.is_meta]
        if empty:
            raise UnsupportedModel(
                f"{type(self.model).__name__} has a parameter {empty[0]} that no tensor of a GGUF "
                "is known for: give a safetensors folder of the same model instead"
            )
        return self.model, stored

    def state(self) -> dict[str, Tensor]:
        """All parameters by name, for loaders that place them by themselves."""
        sources = self.blueprint.sources
        state = {name: self._value(name, source) for name, source in sources.items()}
        if (embedding := self._embedding()) and self.blueprint.config.tie_word_embeddings:
            state[self._name(self.model.get_output_embeddings()) + ".weight"] = state[embedding]
        return state

    def _is_stored(self, name: str, source: Source) -> bool:
        """Whether a parameter is a linear layer's weight, and one tensor of blocks that we read."""
        if not self.as_stored or not name.endswith(".weight"):
            return False
        module = self.model.get_submodule(name.removesuffix(".weight"))
        return type(module) is nn.Linear and self._has_blocks(source)

    def _has_blocks(self, source: Source) -> bool:
        if source.make is not None or len(source.tensors) != 1:
            return False
        tensor = self.file.tensors[source.tensors[0]]
        return tensor.kind in TYPES and len(tensor.shape) == 2

    def _panels(self, source: Source) -> PanelWeight:
        tensor = self.file.tensors[source.tensors[0]]
        data = tensor.data if source.rows is None else tensor.data[source.rows]
        if self.rounds and tensor.kind in KINDS:
            return pack_stored(tensor.kind, data)
        codes = decode(tensor.kind, data)
        return pack_groups(codes.codes, codes.scale, codes.minimum, codes.bits)

    def _tied_head(self) -> dict[str, PanelWeight]:
        """The head, which multiplies by the blocks that the embedding looks up in float."""
        head, embedding = self.model.get_output_embeddings(), self._embedding()
        if not (self.as_stored and self.blueprint.config.tie_word_embeddings and embedding):
            return {}
        source = self.blueprint.sources[embedding]
        if type(head) is not nn.Linear or not self._has_blocks(source):
            return {}
        return {self._name(head): self._panels(source)}

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

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        owner, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(owner), leaf, parameter)


def _bits(kind: str, data: Any) -> int:
    """Bits of a weight in panels, its share of scales included, by its first row."""
    codes = decode(kind, data[:1])
    scales = codes.scale.nbytes + (0 if codes.minimum is None else codes.minimum.nbytes)
    return codes.bits + -(-8 * scales // codes.codes.size)
