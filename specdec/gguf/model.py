"""build: a transformers model from a GGUF, every parameter of it from the file."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdec import support
from specdec.errors import UnsupportedModel, WeightsError
from specdec.gguf.blueprint import Blueprint, Source
from specdec.gguf.file import GGUFFile
from specdec.gguf_blocks import TYPES, decode
from specdec.kernels.panel_weight import PanelWeight, pack_groups
from specdec.progress import Progress


def build(
    file: GGUFFile,
    blueprint: Blueprint,
    dtype: torch.dtype,
    as_stored: bool,
    progress: Progress = lambda done, total: None,
) -> tuple[PreTrainedModel, dict[str, PanelWeight]]:
    """The model in `dtype` on the CPU, and linear weights in the file's precision by module name.

    The values are the file's, dequantised in float32 and then rounded to `dtype`. as_stored: linear
    layers whose blocks we read come as panels, and have no dense weight: it is of no rows until
    `Packing` uses the panels, and there again after `Packing.restore`. Architectures whose own
    forward is still to be compared with ours keep theirs, as does a head that is an embedding, too.
    Raises WeightsError for a tensor of the wrong shape.
    """
    model = _empty(blueprint, dtype)
    stored: dict[str, PanelWeight] = {}
    keeps_dense = not support.is_tested(model)
    for done, (name, source) in enumerate(blueprint.sources.items()):
        progress(done, len(blueprint.sources))
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        panels = _panels(file, source) if as_stored and type(module) is nn.Linear else None
        if panels is not None and leaf == "weight":
            _check_shape(file, name, source, module, (panels.outputs, panels.inputs))
            stored[owner] = panels
            if not keeps_dense:
                _set(module, leaf, torch.empty(0, panels.inputs, dtype=dtype))
                continue
        value = torch.from_numpy(source.values(file))
        _check_shape(file, name, source, module, tuple(value.shape), leaf)
        _set(module, leaf, value.to(dtype))
    model.tie_weights()
    if as_stored and model.config.tie_word_embeddings:
        stored |= _tied_head(file, blueprint, model)
    _check_filled(model)
    return model, stored


def state_of(file: GGUFFile, blueprint: Blueprint, dtype: torch.dtype) -> dict[str, Tensor]:
    """All parameters by name, for loaders that place them by themselves."""
    model = _empty(blueprint, dtype)
    state = {}
    for name, source in blueprint.sources.items():
        owner, _, leaf = name.rpartition(".")
        value = torch.from_numpy(source.values(file)).to(dtype)
        _check_shape(file, name, source, model.get_submodule(owner), tuple(value.shape), leaf)
        state[name] = value
    return state


def _empty(blueprint: Blueprint, dtype: torch.dtype) -> PreTrainedModel:
    """The model without parameters, but with its buffers, which are computed."""
    auto: Any = AutoModelForCausalLM
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = auto.from_config(blueprint.config, dtype=dtype)
    return model.eval()


def _panels(file: GGUFFile, source: Source) -> PanelWeight | None:
    if source.make is not None or len(source.tensors) != 1:
        return None
    tensor = file.tensors[source.tensors[0]]
    if tensor.kind not in TYPES or len(tensor.shape) != 2:
        return None
    codes = decode(tensor.kind, tensor.data if source.rows is None else tensor.data[source.rows])
    return pack_groups(codes.codes, codes.scale, codes.minimum, codes.bits)


def _tied_head(
    file: GGUFFile, blueprint: Blueprint, model: PreTrainedModel
) -> dict[str, PanelWeight]:
    """The head, which multiplies by the blocks that the embedding looks up in float."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    source = blueprint.sources[names[id(embedding)] + ".weight"]
    panels = _panels(file, source) if type(head) is nn.Linear else None
    return {} if panels is None else {names[id(head)]: panels}


def _set(module: nn.Module, leaf: str, value: Tensor) -> None:
    setattr(module, leaf, nn.Parameter(value, requires_grad=False))


def _check_shape(
    file: GGUFFile, name: str, source: Source, module: nn.Module, shape: tuple[int, ...],
    leaf: str = "weight",
) -> None:  # fmt: skip
    wanted = tuple(getattr(module, leaf).shape)
    if shape != wanted:
        raise WeightsError(
            f"{file.path}: {' and '.join(source.tensors)} would make {name} {list(shape)}, and the "
            f"file's keys say {list(wanted)}"
        )


def _check_filled(model: PreTrainedModel) -> None:
    empty = [name for name, p in model.named_parameters() if p.is_meta]
    if empty:
        raise UnsupportedModel(
            f"{type(model).__name__} has a parameter {empty[0]} that no tensor of a GGUF is known "
            "for: give a safetensors folder of the same model instead"
        )
