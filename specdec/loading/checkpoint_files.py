"""What a model folder must hold: safetensors weights, all of them, and nothing pickled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from specdec.errors import SpecdecError, UnsupportedModel, WeightsError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_GENERATION = "generation_config.json"
# Tensors that the text of a prompt without images or sound does not depend on: causal masks that
# old releases stored, tables of positions, and what reads other things than text.
_HARMLESS = re.compile(
    r"\.(attn|attention)\.(masked_)?bias$|position_ids$|inv_freq$"
    r"|(^|\.)(vision|visual|audio|image|speech|multi_modal)[^.]*\."
)
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


def check_folder(folder: Path) -> None:
    """Raise WeightsError, with what to do, unless `folder` can be loaded without unpickling."""
    if not (folder / "config.json").is_file():
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f": name the file, as in {folder / ggufs[0]}" if ggufs else ""
        raise WeightsError(f"{folder} holds no config.json, so it is no model folder{hint}")
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{folder} is an adapter: merge it into its base model, save that, and load the result"
        )
    config = _object(folder / "config.json")
    if (folder / _GENERATION).is_file():
        _object(folder / _GENERATION)  # transformers leaves out one that is damaged
    if (folder / _SINGLE).is_file():
        _check_tensors([folder / _SINGLE], "quantization_config" in config)
    elif (folder / _INDEX).is_file():
        _check_tensors(_shards(folder), "quantization_config" in config)
    else:
        pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
        if pickles:
            raise _refusal(f"{folder} holds its weights in {pickles[0]}", str(folder))
        raise WeightsError(f"{folder} holds no weights: {_SINGLE} or {_INDEX} is missing")


def explained(error: Exception, name: str, local: bool, cached: bool = False) -> SpecdecError:
    """The error of transformers' loaders, in terms of what the user gave."""
    text = str(error).strip()
    first = text.split("\n")[0] or type(error).__name__
    if "trust_remote_code" in text:
        return WeightsError(
            f"{name} needs Python code of its own to load: pass trust_remote_code=True if you "
            "trust its authors to run code on this machine"
        )
    if "use_safetensors" in text:
        return _refusal(f"{name} has no safetensors weights", name)
    if isinstance(error, OSError) and cached and not local:
        return WeightsError(
            f"there is no folder {name} here, it is not in the hub's cache, and local_files_only "
            "forbids to ask for it"
        )
    if isinstance(error, OSError) and not local:
        return WeightsError(
            f"there is no folder {name} here, and it could not be had from the hub: {first} Give a "
            "folder or a .gguf file, or set HF_HUB_OFFLINE=1 to look in the hub's cache alone"
        )
    if isinstance(error, (ValueError, ImportError, KeyError)):
        return UnsupportedModel(f"{name} cannot be loaded as a causal LM: {first}")
    return WeightsError(f"{name} could not be loaded ({type(error).__name__}): {first}")


def check_loaded(name: str, missing: list[str], mismatched: list[str], left: list[str]) -> None:
    """Raise WeightsError if parameters were left at random values, or tensors were left over, both
    of which transformers permits."""
    for names, what in ((missing, "lacks"), (mismatched, "has the wrong shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(
                f"the checkpoint {name} {what} {names[0]}{more}: it is damaged, or is no causal LM "
                "of the kind that its config.json names"
            )
    left = [key for key in left if not _HARMLESS.search(key)]
    if left:
        more = f" (nor {len(left) - 1} more)" if len(left) > 1 else ""
        raise WeightsError(
            f"the checkpoint {name} holds {left[0]}, which the model of its config.json does not "
            f"have{more}: is it of that kind? If nothing depends on it, load the model with "
            "transformers and give that to Engine"
        )


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} holds no JSON object: is it whole?")
    return value


def _shards(folder: Path) -> list[Path]:
    """The files that the index names, all of which are there."""
    names = _object(folder / _INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(f"{folder / _INDEX} cannot be read: it has no weight_map of file names")
    shards = sorted(set(names.values()))
    for shard in shards:
        if not shard.endswith(".safetensors"):
            raise _refusal(f"{folder / _INDEX} names {shard}", str(folder))
        if not (folder / shard).is_file():
            raise WeightsError(
                f"{folder} lacks {shard}, one of {len(shards)} files: download it again"
            )
    return [folder / shard for shard in shards]


def _check_tensors(files: Iterable[Path], is_quantised: bool) -> None:
    """Raise WeightsError for a tensor in two files, and for whole numbers as weights, which would
    be taken for their own values, unless the configuration says what they mean."""
    seen: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as opened:
                kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file} could not be loaded: {error}") from error
        for name, kind in kinds.items():
            if name in seen:
                raise WeightsError(
                    f"{seen[name]} and {file.name} of {file.parent} both hold {name}: remove the "
                    "file that does not belong"
                )
            seen[name] = file.name
            is_number = kind in _FLOATS or not name.endswith((".weight", ".bias"))
            if not is_quantised and not is_number and not _HARMLESS.search(name):
                raise WeightsError(
                    f"{file}: {name} is of type {kind}, and config.json has no quantization_config "
                    "that says what such numbers mean"
                )


def _refusal(what: str, name: str) -> WeightsError:
    return WeightsError(
        f"{what}: pickled weights can run code when they are read, so only safetensors and GGUF "
        f"are loaded. If you trust them, convert them once in Python: "
        f"AutoModelForCausalLM.from_pretrained({name!r}).save_pretrained(NEW_FOLDER), and "
        "AutoTokenizer likewise"
    )
