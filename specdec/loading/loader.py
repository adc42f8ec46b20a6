"""load: a model and its tokenizer from wherever they are, never from a format that runs code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedModel

from specdec import ranks
from specdec.errors import InvalidArgument, WeightsError
from specdec.kernels.dispatch import has_numba
from specdec.loading import checkpoint_files, demo
from specdec.loading.checkpoint_model import (
    can_hold,
    check_all_held,
    config_of_checkpoint,
    load_checkpoint,
)
from specdec.loading.gguf.load import load_gguf, read_gguf, spread_gguf
from specdec.loading.processor import load_processor, processor_at_hand
from specdec.loading.quantised import check_weights, no_quantising, packs_of, story_of
from specdec.model.released import released_in
from specdec.placement import check_activations, no_integers, resolve_device, resolve_dtype

DEMO_VISION = "demo-vision"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken")


class Loaded(NamedTuple):
    """A model ready for inference, its tokenizer if it has one, and where they came from.

    Weights that are kept as they are stored are `Released`: an `Engine` multiplies by them.
    processor: of a model for images; no_processor: why it has none.
    """

    model: PreTrainedModel
    tokenizer: Any
    source: str
    processor: Any = None
    no_processor: str = ""


def load(
    model: str | Path | PreTrainedModel,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int] | None = None,
    offload_folder: str | Path | None = None,
    tensor_parallel: bool = False,
    local_files_only: bool = False,
    activations: str = "auto",
    weights: str = "auto",
) -> Loaded:
    """Load `model`: "demo", "demo-vision", a folder, a path ending in .gguf, a hub id, or a loaded
    model.

    dtype "auto" is float32 on the CPU and the checkpoint's own elsewhere, where a GGUF's
    dequantised values count as float32; device "auto" is CUDA if there is one. On the CPU, "auto"
    also keeps weights of linear layers and embeddings as they are stored. A loaded model is taken
    as it is and where it is. device_map, max_memory (bytes by device) and offload_folder spread the
    weights, as transformers and accelerate do. tensor_parallel: divide the heads among the
    processes that were launched together, if there are several. local_files_only: take what the
    hub's cache has. activations: "float32", or "int8" for products of a GGUF's blocks as they are
    with inputs rounded to 8 bits, which "auto" takes where it can. weights: "q4" or "q8" rounds a
    safetensors checkpoint to groups of 4 or 8 bits, which is another model.

    Raises InvalidArgument for a bad argument, WeightsError for weights that are missing, damaged,
    incomplete or pickled, UnsupportedModel for what is no causal LM of transformers.
    """
    if isinstance(model, PreTrainedModel):
        check_activations(activations)
        check_weights(weights)
        if activations == "int8":
            raise no_integers("this model is loaded already")
        if weights != "auto":
            raise no_quantising(weights, "this model is loaded already")
        if device_map is not None:
            raise InvalidArgument(
                "device_map is for models to be loaded; this one is there already"
            )
        return _take(model, dtype, device, revision)
    if not isinstance(model, (str, Path)):
        raise InvalidArgument(
            f"model is a {type(model).__name__}: give 'demo', a folder, a .gguf file, a hub id "
            "or a loaded transformers model"
        )
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    check_activations(activations)
    check_weights(weights)
    if weights != "auto" and (str(model) == DEMO_VISION or gguf_of(str(model))):
        raise no_quantising(weights, f"{model} is a GGUF, which has its own precision")
    if str(model) == DEMO_VISION:
        processes = ranks.world_size() if tensor_parallel else 1
        if device_map is not None or revision is not None or processes > 1:
            raise InvalidArgument(
                f"{DEMO_VISION} is loaded whole by one process, and is of one revision: leave out "
                "device_map, tensor_parallel and revision"
            )
        return _with_eyes(load("demo", dtype, place, activations=activations))
    local = _is_local(str(model))
    if local and revision is not None:
        raise InvalidArgument(f"revision={revision!r} is for hub ids; {model} is not one")
    options = {
        "trust_remote_code": trust_remote_code,
        "revision": revision or "main",
        "local_files_only": local or local_files_only,
    }
    processes = ranks.world_size() if tensor_parallel else 1
    if device_map is not None and (device != "auto" or processes > 1):
        other = f"{processes} processes" if processes > 1 else f"device={str(device)!r}"
        raise InvalidArgument(
            f"device_map and {other} both say where the weights go: give one of them"
        )
    spread: dict[str, Any] = {}
    if device_map is not None:
        spread = {"device_map": device_map, "max_memory": max_memory and dict(max_memory),
                  "offload_folder": offload_folder and str(offload_folder)}  # fmt: skip
    as_stored = dtype == "auto" and place.type == "cpu" and has_numba()
    if found := gguf_of(str(model)):
        path, source = found
        gguf = read_gguf(path)
        if processes > 1:
            spread = _split(gguf.blueprint.config, place, processes)
        if activations == "int8" and (spread or not as_stored):
            raise no_integers("these weights are not read as they are stored on a CPU: "
                              "leave dtype, device and device_map at auto")  # fmt: skip
        if spread:
            return _ready(spread_gguf(gguf, kind or torch.float32, spread), gguf.tokenizer, source)
        loaded = load_gguf(gguf, kind or torch.float32, as_stored, activations)
        story, is_rounded = _held(loaded)
        if activations == "int8" and not is_rounded:
            raise no_integers(f"none of {path.name} are in blocks that we multiply so")
        if not as_stored:  # what is stored is on the CPU, and is to stay there
            loaded.to(place)  # type: ignore[arg-type]
        return _ready(loaded, gguf.tokenizer, source + story)
    if activations == "int8" and weights == "auto":
        raise no_integers(f"{model} is no GGUF, and weights are not given as 'q4' or 'q8'")
    where, source = str(model), f"hub: {model}"
    if local:
        where = str(Path(model).expanduser())
        source = f"folder: {where}"
        checkpoint_files.check_folder(Path(where))
    config = config_of_checkpoint(where, options, local)
    if processes > 1:
        spread = _split(config, place, processes)
    as_stored = as_stored and not spread and can_hold(config)
    if weights != "auto" and not as_stored:
        raise no_quantising(
            weights, "these weights are not read as they are stored on a CPU: leave dtype, device "
            "and device_map at auto, and give a checkpoint of floats that needs no code of its own"
        )  # fmt: skip
    packs = packs_of(weights, activations) if as_stored else None
    loaded = load_checkpoint(where, local, config, kind, options, spread, packs)
    if weights != "auto":
        check_all_held(loaded, weights)
    story, _ = _held(loaded)
    if not (spread or story):
        loaded.to(place)  # type: ignore[arg-type]
    if weights != "auto":
        story = story.replace(", weights as stored", story_of(weights))
    ready = _ready(loaded, _load_tokenizer(where, local, options), source + story)
    eyes = load_processor(loaded, where, local, options)
    return ready._replace(processor=eyes.processor, no_processor=eyes.reason)


def gguf_of(name: str) -> tuple[Path, str] | None:
    """The GGUF behind a name, fetched if need be, and its story; None for another kind of model.

    Raises WeightsError for a file that is not there.
    """
    if name == "demo":
        return demo.demo_gguf(), f"demo: {demo.NAME} from {demo.REQUIREMENT}"
    path = Path(name).expanduser()
    if path.is_dir() or path.suffix.lower() != ".gguf":
        return None
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; a GGUF on the hub must be downloaded first")
    return path, f"GGUF: {path}"


def config_of(name: str) -> Any:
    """The configuration of "demo" or a .gguf file, without its weights; None for another name."""
    found = gguf_of(name)
    return None if found is None else read_gguf(found[0]).blueprint.config


def _with_eyes(text: Loaded) -> Loaded:
    """The demo model as a LLaVA with the tower that ships."""
    from specdec.loading import demo_vision

    model = demo_vision.with_eyes(text.model, text.tokenizer, demo_vision.TOWER)
    demo_vision.put_in(model, demo_vision.read(demo_vision.WEIGHTS), str(demo_vision.WEIGHTS))
    sight: Any = model.model
    for part in (sight.vision_tower, sight.multi_modal_projector):
        part.to(text.model.device, text.model.dtype)
    source = f"{DEMO_VISION}: {demo_vision.NAME} on {text.source}"
    processor = demo_vision.processor(text.tokenizer)
    return _ready(model, text.tokenizer, source)._replace(processor=processor)


def _ready(model: PreTrainedModel, tokenizer: Any, source: str) -> Loaded:
    return Loaded(model.requires_grad_(False), tokenizer, source)


def _held(model: PreTrainedModel) -> tuple[str, bool]:
    """What is told of weights that are kept in panels, and whether products with them round."""
    held = list(released_in(model))
    is_rounded = any(panels.is_stored for panels in held)
    story = ", weights as stored" if held else ""
    return story + (", activations in 8 bits" if is_rounded else ""), is_rounded


def _split(config: Any, place: torch.device, processes: int) -> dict[str, Any]:
    """Options that load this process's part of a model, once the others are met."""
    ranks.check_split(config, processes)
    mine = ranks.check_device(place, processes)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    ranks.join(mine)
    return ranks.split_options(processes)


def _is_local(name: str) -> bool:
    """Whether `name` is "demo", a folder or a file; otherwise it can be a hub id, or it raises."""
    path = Path(name).expanduser()
    if name == "demo" or path.is_dir() or path.suffix.lower() == ".gguf":
        return True
    if path.is_file():
        raise WeightsError(f"{name} is a file: give the folder that holds it, or a .gguf file")
    if not _HUB_ID.fullmatch(name):
        raise WeightsError(
            f"there is no folder {path}, and {name!r} cannot be a hub id (owner/name) either"
        )
    return False


def _load_tokenizer(where: str, local: bool, options: dict[str, Any]) -> Any:
    """The tokenizer, or None where there is none: the engine then takes token ids only."""
    if local and not any(any(Path(where).glob(kind)) for kind in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        if not local and isinstance(error, OSError):
            return None  # the model came from there, so it is the files that are missing
        raise WeightsError(f"the tokenizer of {where} cannot be loaded: {error}") from error
    return tokenizer if len(tokenizer) else None


def _take(model: PreTrainedModel, dtype: Any, device: Any, revision: str | None) -> Loaded:
    """A model that the caller loaded: checked against what else they ask for, not changed."""
    if revision is not None:
        raise InvalidArgument(f"revision={revision!r} is for hub ids; this model is loaded already")
    place = model.device if device == "auto" else resolve_device(device)
    if place.type != model.device.type or place.index not in (None, model.device.index):
        raise InvalidArgument(
            f"device={str(device)!r}, but the model is on {model.device}: call model.to() before"
        )
    if dtype != "auto" and resolve_dtype(dtype, place) != model.dtype:
        raise InvalidArgument(
            f"dtype={dtype!r}, but the model is in {model.dtype}: call model.to() before"
        )
    story = f"loaded: {type(model).__name__} {model.name_or_path}".rstrip()
    return Loaded(model, tokenizer_at_hand(model), story, *processor_at_hand(model))


def tokenizer_at_hand(model: PreTrainedModel) -> Any:
    """The tokenizer of a loaded model where it lies on this machine, else None: such a model may
    well be driven by token ids alone."""
    if model.name_or_path:
        with suppress(OSError, ValueError):
            return AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True)
    return None
