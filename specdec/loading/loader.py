"""load: a model and its tokenizer from wherever they are, never from a format that runs code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)

from specdec import ranks
from specdec.errors import InvalidArgument, WeightsError
from specdec.kernels.dispatch import has_numba
from specdec.loading import checkpoint_files, demo
from specdec.loading.gguf.load import load_gguf, read_gguf, spread_gguf
from specdec.loading.processor import (
    is_for_images,
    load_processor,
    processor_at_hand,
)
from specdec.model.released import released_in
from specdec.placement import check_activations, no_integers, resolve_device, resolve_dtype
from specdec.progress import progress_bar, quiet_transformers

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
) -> Loaded:
    """Load `model`: "demo", "demo-vision", a folder, a path ending in .gguf, a hub id, or a loaded
    model.

    dtype "auto" is float32 on the CPU and the checkpoint's own elsewhere, where a GGUF's
    dequantised values count as float32; device "auto" is CUDA if there is one. On the CPU, "auto"
    also gives a GGUF's linear weights as they are stored. A loaded model is taken as it is and
    where it is. device_map, max_memory (bytes by device) and offload_folder spread the weights, as
    transformers and accelerate do. tensor_parallel: divide the heads among the processes that were
    launched together, if there are several. local_files_only: take what the hub's
    cache has. activations: "float32", or "int8" for products of a GGUF's blocks as they are with
    inputs rounded to 8 bits, which "auto" takes where it can.

    Raises InvalidArgument for a bad argument, WeightsError for weights that are missing, damaged,
    incomplete or pickled, UnsupportedModel for what is no causal LM of transformers.
    """
    if isinstance(model, PreTrainedModel):
        check_activations(activations)
        if activations == "int8":
            raise no_integers("this model is loaded already")
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
    if found := gguf_of(str(model)):
        path, source = found
        gguf = read_gguf(path)
        as_stored = dtype == "auto" and place.type == "cpu" and has_numba()
        if processes > 1:
            spread = _split(gguf.blueprint.config, place, processes)
        if activations == "int8" and (spread or not as_stored):
            raise no_integers("these weights are not read as they are stored on a CPU: "
                              "leave dtype, device and device_map at auto")  # fmt: skip
        if spread:
            return _ready(spread_gguf(gguf, kind or torch.float32, spread), gguf.tokenizer, source)
        rounds = as_stored and activations != "float32"
        loaded = load_gguf(gguf, kind or torch.float32, as_stored, rounds)
        held = list(released_in(loaded))
        is_rounded = any(panels.is_stored for panels in held)
        if activations == "int8" and not is_rounded:
            raise no_integers(f"none of {path.name} are in blocks that we multiply so")
        story = ", weights as stored" if held else ""
        story += ", activations in 8 bits" if is_rounded else ""
        if not as_stored:  # what is stored is on the CPU, and is to stay there
            loaded.to(place)  # type: ignore[arg-type]
        return _ready(loaded, gguf.tokenizer, source + story)
    if activations == "int8":
        raise no_integers(f"{model} is no GGUF")
    where, source = str(model), f"hub: {model}"
    if local:
        where = str(Path(model).expanduser())
        source = f"folder: {where}"
        checkpoint_files.check_folder(Path(where))
    if processes > 1:
        spread = _split(AutoConfig.from_pretrained(where, **options), place, processes)
    loaded = _load_model(where, local, kind, {**options, **spread})
    if not spread:
        loaded.to(place)  # type: ignore[arg-type]
    ready = _ready(loaded, _load_tokenizer(where, local, options), source)
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


def _load_model(
    where: str, local: bool, kind: torch.dtype | None, options: dict[str, Any]
) -> PreTrainedModel:
    try:
        auto: Any = AutoModelForCausalLM
        if is_for_images(AutoConfig.from_pretrained(where, **_of_config(options))):
            auto = AutoModelForImageTextToText
        with progress_bar("Loading weights") as progress, quiet_transformers(progress):
            model, report = auto.from_pretrained(
                where,
                dtype="auto" if kind is None else kind,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # of many libraries: what they say is passed on
        raise checkpoint_files.explained(
            error, where, local, options["local_files_only"]
        ) from error
    mismatched = [str(entry[0]) for entry in report["mismatched_keys"]]
    missing, left = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    checkpoint_files.check_loaded(where, missing, sorted(mismatched), left)
    return model


def _of_config(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say where files come from."""
    return {name: options[name] for name in ("trust_remote_code", "revision", "local_files_only")}


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
