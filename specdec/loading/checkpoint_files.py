"""What a model folder must hold: safetensors weights, all of them, and nothing pickled."""

from __future__ import annotations

import json
from pathlib import Path

from specdec.errors import SpecdecError, UnsupportedModel, WeightsError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
    if (folder / _INDEX).is_file() and not (folder / _SINGLE).is_file():
        _check_shards(folder)
    elif not (folder / _SINGLE).is_file():
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
            f"there is no folder {name} here, and it could not be had from the hub: {first}"
        )
    if isinstance(error, (ValueError, ImportError, KeyError)):
        return UnsupportedModel(f"{name} cannot be loaded as a causal LM: {first}")
    return WeightsError(f"{name} could not be loaded ({type(error).__name__}): {first}")


def check_loaded(name: str, missing: list[str], mismatched: list[str]) -> None:
    """Raise WeightsError if parameters were left at random values, which transformers permits."""
    for names, what in ((missing, "lacks"), (mismatched, "has the wrong shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(
                f"the checkpoint {name} {what} {names[0]}{more}: it is damaged, or is no causal LM "
                "of the kind that its config.json names"
            )


def _check_shards(folder: Path) -> None:
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        shards = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{folder / _INDEX} cannot be read: {error}") from error
    for shard in shards:
        if not shard.endswith(".safetensors"):
            raise _refusal(f"{folder / _INDEX} names {shard}", str(folder))
        if not (folder / shard).is_file():
            raise WeightsError(
                f"{folder} lacks {shard}, one of {len(shards)} files: download it again"
            )


def _refusal(what: str, name: str) -> WeightsError:
    return WeightsError(
        f"{what}: pickled weights can run code when they are read, so only safetensors and GGUF "
        f"are loaded. If you trust them, convert them once in Python: "
        f"AutoModelForCausalLM.from_pretrained({name!r}).save_pretrained(NEW_FOLDER), and "
        "AutoTokenizer likewise"
    )
