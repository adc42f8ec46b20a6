"""read_gguf: what is in a GGUF; load_gguf: its model and tokenizer, ready for inference."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from specdec.errors import WeightsError
from specdec.loading.gguf.architectures import blueprint_of
from specdec.loading.gguf.blueprint import Blueprint
from specdec.loading.gguf.file import GGUFFile
from specdec.loading.gguf.model import ModelBuilder
from specdec.loading.gguf.tokenizer import tokenizer_of
from specdec.loading.gguf.vocab import end_ids
from specdec.model.foreseen import why_bits_vary
from specdec.progress import progress_bar, quiet_transformers

log = logging.getLogger("specdec")


class GGUF(NamedTuple):
    """A file that is understood completely: its model's blueprint, and its tokenizer if it has one.

    Nothing of its weights has been read yet.
    """

    file: GGUFFile
    blueprint: Blueprint
    tokenizer: Any


def read_gguf(path: Path) -> GGUF:
    """Open a GGUF, with all its shards, and check that every key and tensor is understood.

    Raises WeightsError for a file that is damaged or incomplete, UnsupportedModel for an
    architecture, key, tensor or tokenizer that is not understood, by its name.
    """
    file = GGUFFile.open(path)
    blueprint = blueprint_of(file)
    tokenizer = tokenizer_of(file.fields)
    tokens, rows = len(file.fields.get("tokenizer.ggml.tokens", ())), blueprint.config.vocab_size
    if tokens > rows:
        raise WeightsError(
            f"{path} has {tokens} tokens (tokenizer.ggml.tokens) and token_embd.weight for {rows}"
        )
    _set_ids(blueprint.config, file.fields, tokenizer)
    blueprint.config.name_or_path = str(path)
    return GGUF(file, blueprint, tokenizer)


def load_gguf(
    gguf: GGUF, dtype: torch.dtype, as_stored: bool, activations: str = "float32"
) -> PreTrainedModel:
    """The model on the CPU, its weights as they are stored or dense: see `ModelBuilder`.

    activations: "int8" rounds them where blocks are stored so, and "auto" does unless it is known
    that tokens would not keep their bits. Says in the log how much memory it takes, and warns where
    so much is not free.
    """
    name = gguf.file.path.name
    rounds = as_stored and activations != "float32"
    builder = ModelBuilder(gguf.file, gguf.blueprint, dtype, as_stored, rounds)
    if rounds and activations == "auto" and (why := why_bits_vary(builder.model, builder.rounded)):
        log.info("%s: float32 activations: %s", name, why)
        builder.rounds = False
    needed, free = builder.nbytes, psutil.virtual_memory().available
    level = logging.WARNING if needed > free else logging.INFO
    size = f"{needed / 1e9:.1f} GB in memory"
    log.log(level, "%s: weights of %s, where %.1f GB are free", name, size, free / 1e9)
    for kind, size_of in builder.widened.items():
        log.warning("%s: matrices in %s are widened to floats: %.1f GB", name, kind, size_of / 1e9)
    with progress_bar(f"Loading {name} ({size})") as progress:
        return builder.build(progress)


def spread_gguf(gguf: GGUF, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    """The model, its parts where `options` of transformers' `from_pretrained` put them."""
    builder = ModelBuilder(gguf.file, gguf.blueprint, dtype)
    kind: Any = type(builder.model)
    with progress_bar(f"Loading {gguf.file.path.name}") as progress, quiet_transformers(progress):
        model: PreTrainedModel = kind.from_pretrained(
            None, config=gguf.blueprint.config, state_dict=builder.state(), dtype=dtype, **options
        )
    return model


def _set_ids(config: PreTrainedConfig, fields: dict[str, Any], tokenizer: Any) -> None:
    """Ends and other special ids, which the generation configuration starts from."""
    ends = [i for i in end_ids(fields) if i < config.vocab_size]
    config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    for role, name in (("bos", "bos_token_id"), ("pad", "padding_token_id")):
        value = fields.get(f"tokenizer.ggml.{name}")
        if tokenizer is not None:
            value = getattr(tokenizer, f"{role}_token_id")
        if value is not None and value < config.vocab_size:
            setattr(config, f"{role}_token_id", int(value))
