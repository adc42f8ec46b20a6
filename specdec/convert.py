"""convert: a GGUF file, once, into a folder that transformers and our kernels load in a second."""

from __future__ import annotations

import copy
import functools
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from specdec import stored_weights
from specdec.cachedir import build_folder, cache_root, is_complete, make_folder, sha256_of
from specdec.errors import SpecdecError, UnsupportedModel, WeightsError
from specdec.gguf_tokenizer import tokenizer_of
from specdec.gguf_vocab import end_ids
from specdec.progress import Progress, progress_bar, quiet_transformers

# Counts up when a converted folder would come out differently: older ones are then not found.
_FORMAT = 4


def convert(path: Path, dtype: torch.dtype = torch.float32, sha256: str | None = None) -> Path:
    """The folder with the GGUF's model and tokenizer, from the cache or converted now.

    The weights are the file's values, dequantised in float32 and then rounded to `dtype`; float32
    keeps them exactly, and then the folder also holds the linear layers in the file's own precision
    (`stored_weights`). The folder is keyed by the file's content: `sha256` says it where the caller
    knows it already. Needs memory for the whole model in `dtype`.

    Raises WeightsError for what is no whole GGUF, UnsupportedModel for an architecture that
    transformers cannot read.
    """
    key = sha256 or fingerprint(path)
    exact = converted_folder(key)
    if is_complete(exact):  # rounding it on loading gives the same as converting again
        return exact
    folder = converted_folder(key, dtype)
    if is_complete(folder):
        return folder
    _check_magic(path)
    name = path.name
    with progress_bar(f"Converting {name}, once") as progress:
        return build_folder(folder, lambda out: _convert(path, out, dtype, progress), source=name)


def converted_folder(sha256: str, dtype: torch.dtype = torch.float32) -> Path:
    """Where the conversion of the GGUF with this content is, or will be."""
    kind = str(dtype).removeprefix("torch.")
    return cache_root() / "gguf" / f"{sha256[:32]}-{kind}-v{_FORMAT}"


def fingerprint(path: Path) -> str:
    """The sha256 of a file's content; remembered by path, size and time of change."""
    stat = path.stat()
    seen = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    note = cache_root() / "gguf" / f"{uuid.uuid5(uuid.NAMESPACE_URL, str(seen[0]))}.json"
    try:
        known = json.loads(note.read_text("utf-8"))
        if known["seen"] == seen:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not seen yet, or a note we cannot read: hash the file
    sha256 = sha256_of(path)
    make_folder(note.parent)
    draft = note.with_suffix(f".{uuid.uuid4().hex}")
    draft.write_text(json.dumps({"seen": seen, "sha256": sha256}), "utf-8")
    os.replace(draft, note)
    return sha256


def _convert(path: Path, out: Path, dtype: torch.dtype, progress: Progress) -> None:
    from huggingface_hub import save_torch_model
    from transformers import AutoModelForCausalLM

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(path.parent.resolve()),
        "gguf_file": path.name,
        "local_files_only": True,
    }
    with quiet_transformers(progress), _one_reader() as reader:
        try:
            file = reader(os.path.join(path.parent.resolve(), path.name))
            fields = _fields(file)
            tokenizer = tokenizer_of(fields)
            model = AutoModelForCausalLM.from_pretrained(
                **source, dtype=dtype, quantization_config=_dequantise()
            )
        except SpecdecError:
            raise
        except Exception as error:
            raise _explained(error, path) from error
        # Not model.save_pretrained: it refuses whatever came from a GGUF.
        tied = list(getattr(model, "_tied_weights_keys", None) or ())
        save_torch_model(
            model,
            out,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size="4GB",
            shared_tensors_to_discard=tied if model.config.tie_word_embeddings else None,
        )
        config = copy.deepcopy(model.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.architectures = [type(model).__name__]
        config.dtype = dtype
        config.save_pretrained(out)
        if model.generation_config is not None:
            ends = list(end_ids(fields))
            model.generation_config.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
            model.generation_config.save_pretrained(out)
        if tokenizer is not None:
            tokenizer.save_pretrained(out)
        if dtype == torch.float32:
            stored_weights.save(stored_weights.find(model, file.tensors), out)


@contextmanager
def _one_reader() -> Iterator[Any]:
    """Parse the file once: transformers asks for config, tensors and tokenizer, each 3 s anew."""
    gguf: Any = import_module("gguf")
    kind = gguf.GGUFReader
    gguf.GGUFReader = functools.lru_cache(maxsize=1)(kind)
    try:
        yield gguf.GGUFReader
    finally:
        gguf.GGUFReader = kind


def _dequantise() -> Any:
    """The config that keeps transformers from leaving the weights packed; None before it could."""
    import transformers

    kind = getattr(transformers, "GgufConfig", None)
    return None if kind is None else kind(dequantize=True)


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightsError(f"{path} is not a GGUF file: it does not start with 'GGUF'")


def _fields(file: Any) -> dict[str, Any]:
    """The metadata that a tokenizer may depend on: key -> plain value."""
    wanted = ("tokenizer.", "general.")
    return {key: x.contents() for key, x in file.fields.items() if key.startswith(wanted)}


def _explained(error: Exception, path: Path) -> Exception:
    message = str(error).strip().split("\n")[0] or type(error).__name__
    if "architecture" in message and "not supported" in message:
        return UnsupportedModel(
            f"{path.name}: {message} Give a safetensors folder of the same model instead"
        )
    return WeightsError(
        f"{path} could not be read as GGUF ({message}): "
        "is it whole? Compare its size or checksum with the source, or download it again"
    )
