"""checkpoint_model: a model from a safetensors checkpoint, dense or its matrices as stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from specdec.errors import SpecdecError, UnsupportedModel
from specdec.loading import checkpoint_files
from specdec.loading.pending import Packs, Pending, pending
from specdec.loading.processor import is_for_images
from specdec.model.released import release
from specdec.model.text_part import decoder_of
from specdec.progress import Progress, progress_bar, quiet_transformers

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def can_hold(config: Any) -> bool:
    """Whether a checkpoint's matrices can be put in panels as they are read: not what a library has
    quantised in a way of its own, or what code of its own reads."""
    return not (hasattr(config, "quantization_config") or getattr(config, "auto_map", None))


def config_of_checkpoint(where: str, options: dict[str, Any], local: bool) -> Any:
    """Its configuration. Raises SpecdecErrors."""
    try:
        return AutoConfig.from_pretrained(where, **options)
    except Exception as error:  # of many libraries: what they say is passed on
        raise checkpoint_files.explained(
            error, where, local, options["local_files_only"]
        ) from error


def load_checkpoint(
    where: str,
    local: bool,
    config: Any,
    kind: torch.dtype | None,
    options: dict[str, Any],
    spread: dict[str, Any],
    packs: Callable[[PreTrainedModel], Packs] | None = None,
) -> PreTrainedModel:
    """The model of a folder or hub id. kind: its dtype, None the checkpoint's own; options: that
    say where files come from; spread: where weights go.

    packs: weights of linear layers that text goes through, and of the embedding, are `Released` in
    the panels that are made of them, one after the other, by what it says of the model on the meta
    device; the model is in float32. What a file's names mean is transformers' to say either way.
    Raises SpecdecErrors.
    """
    auto: Any = AutoModelForImageTextToText if is_for_images(config) else AutoModelForCausalLM
    try:
        files = weight_files(where, options) if packs is not None else []
        with progress_bar("Loading weights") as progress, quiet_transformers(progress):
            if packs is not None and files:
                with torch.device("meta"):
                    frame: Any = auto.from_config(config, dtype=torch.float32)
                made = packs(frame)
                model, report = type(frame).from_pretrained(
                    None, config=frame.config, state_dict=pending(files), dtype=torch.float32,
                    output_loading_info=True,
                )  # fmt: skip
            else:
                model, report = auto.from_pretrained(
                    where, dtype="auto" if kind is None else kind, use_safetensors=True,
                    output_loading_info=True, **options, **spread,
                )  # fmt: skip
            _check(where, report)
            if packs is not None and files:
                _settle(model, made, progress)
                model.name_or_path = model.config.name_or_path = where
                model.generation_config = _generation_config(where, options)
    except SpecdecError:
        raise
    except Exception as error:  # of many libraries: what they say is passed on
        raise checkpoint_files.explained(
            error, where, local, options["local_files_only"]
        ) from error
    return model


def weight_files(where: str, options: dict[str, Any]) -> list[Path]:
    """The files that hold a checkpoint's tensors, fetched if need be; none where it has no
    safetensors."""
    given = {name: options[name] for name in ("revision", "local_files_only")}
    quiet = {**given, "_raise_exceptions_for_missing_entries": False}
    if single := cached_file(where, _SINGLE, **quiet):
        return [Path(single)]
    index = cached_file(where, _INDEX, **quiet)
    if index is None:
        return []
    names, _ = get_checkpoint_shard_files(where, index, **given)
    return [Path(name) for name in names]


def check_all_held(model: Any, weights: str) -> None:
    """Raise UnsupportedModel for a matrix that text goes through and that is not in panels."""
    for name, module in decoder_of(model).named_modules():
        for leaf, x in module._parameters.items():
            is_matrix = x is not None and x.dim() > 1 and not hasattr(x, "panels")
            if is_matrix and not isinstance(module, nn.Embedding):
                raise UnsupportedModel(
                    f"weights={weights!r} packs linear layers, and {name}.{leaf} of "
                    f"{type(model).__name__} is none ({type(module).__name__}): leave weights at "
                    "'auto'"
                )


def _check(where: str, report: dict[str, Any]) -> None:
    mismatched = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    missing, left = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    checkpoint_files.check_loaded(where, missing, mismatched, left)


def _settle(model: Any, packs: Packs, progress: Progress) -> None:
    """Put panels or numbers in the place of all that is pending; what is tied stays one."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    text, done = {*decoder_of(model).modules(), head}, dict[int, nn.Parameter]()
    modules = list(model.named_modules())
    for number, (name, module) in enumerate(modules):
        progress(number, len(modules))
        for leaf, x in list(module._parameters.items()):
            if not isinstance(x, Pending):
                continue
            if id(x) not in done:
                is_linear = type(module) is nn.Linear and module in text
                is_head = module is head or module is embedding
                if leaf == "weight" and (is_linear or module is embedding):
                    done[id(x)] = release(packs(name, x, is_head))
                else:
                    done[id(x)] = nn.Parameter(x.dense())
            module._parameters[leaf] = done[id(x)]
        for leaf, buffer in list(module._buffers.items()):
            if isinstance(buffer, Pending):
                module._buffers[leaf] = buffer.dense()


def _generation_config(where: str, options: dict[str, Any]) -> GenerationConfig:
    """The checkpoint's own, or what its config.json says of it, as `from_pretrained` has it."""
    given = {name: options[name] for name in ("revision", "local_files_only")}
    try:
        return GenerationConfig.from_pretrained(where, **given)
    except OSError:
        return GenerationConfig.from_pretrained(
            where, config_file_name="config.json", _from_model_config=True, **given
        )
