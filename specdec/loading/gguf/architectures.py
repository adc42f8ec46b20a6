"""The architectures of GGUF files that are understood: each by the function that reads it."""

from __future__ import annotations

from collections.abc import Callable

from specdec.errors import SpecdecError, UnsupportedModel, WeightsError
from specdec.loading.gguf.blueprint import Blueprint
from specdec.loading.gguf.contents import Contents
from specdec.loading.gguf.file import GGUFFile
from specdec.loading.gguf.gemma import gemma, gemma2, gemma3
from specdec.loading.gguf.gpt_oss import gpt_oss
from specdec.loading.gguf.llama import granite, llama, smollm3
from specdec.loading.gguf.others import command_r, gpt2, olmo2, phi2, starcoder2
from specdec.loading.gguf.phi3 import phi3
from specdec.loading.gguf.qwen import qwen2, qwen2moe, qwen3, qwen3moe

ARCHITECTURES: dict[str, Callable[[Contents], Blueprint]] = {
    "llama": llama,
    "granite": granite,
    "smollm3": smollm3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen2moe": qwen2moe,
    "qwen3moe": qwen3moe,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi3": phi3,
    "gpt-oss": gpt_oss,
    "olmo2": olmo2,
    "starcoder2": starcoder2,
    "phi2": phi2,
    "command-r": command_r,
    "gpt2": gpt2,
}


def blueprint_of(file: GGUFFile) -> Blueprint:
    """The model that a file holds, every key and tensor of which is understood.

    Raises UnsupportedModel for an architecture, a key or a tensor that is not, by its name, and
    WeightsError for what is missing.
    """
    c = Contents(file)
    read = ARCHITECTURES.get(c.architecture)
    if read is None:
        raise UnsupportedModel(
            f"{file.path.name} has the architecture {c.architecture!r}; read from GGUF are "
            f"{', '.join(ARCHITECTURES)}. Give a safetensors folder of the same model instead"
        )
    try:
        blueprint = read(c)
    except SpecdecError:
        raise
    except Exception as error:  # of transformers' classes, which check a configuration
        raise UnsupportedModel(
            f"{file.path.name}: transformers refuses what its keys say ({error}); give a "
            "safetensors folder of the same model instead"
        ) from error
    c.check_keys()
    used = [name for source in blueprint.sources.values() for name in source.tensors]
    lacking = [name for name in used if not c.has(name)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise WeightsError(
            f"{file.path} lacks the tensor {lacking[0]}{more}: is it whole? Of a split "
            "model all shards must lie side by side"
        )
    c.check_tensors(used)
    for name, source in blueprint.sources.items():
        if source.rows is None:
            continue
        for tensor in source.tensors:
            if c.rows(tensor) != len(source.rows):
                raise WeightsError(
                    f"{file.path}: {tensor} would make {name} of {c.rows(tensor)} rows, and the "
                    f"file's keys say {len(source.rows)}"
                )
    return blueprint
