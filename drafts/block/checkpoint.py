"""Checkpoints of a Block Transformer: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from specdec.drafts.block.model import BlockTransformer
from specdec.errors import InvalidArgument, WeightsError
from specdec.files import replacing, write_text

KIND = "block-transformer"
FIELDS = {"model_type", "block_length", "prefix", "pad", "block_decoder", "token_decoder"}


def load(source: Any) -> BlockTransformer:
    """The model in a folder, in float32 on the CPU.

    config.json says what the released training configurations do: model_type
    "block-transformer", block_length, prefix (their expansion_ratio), pad, and the two GPT-NeoX
    configurations block_decoder and token_decoder. model.safetensors has the released names of
    weights. Raises InvalidArgument for another kind of model, WeightsError for one that is broken.
    """
    if not isinstance(source, (str, Path)):
        raise InvalidArgument(
            f"draft_model is a {type(source).__name__}: drafter 'block' takes a folder with a "
            "Block Transformer"
        )
    folder = Path(source).expanduser()
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind = config.pop("model_type", "unknown")
        if kind != KIND:
            raise InvalidArgument(
                f"draft_model={str(source)!r} holds a model of type {kind!r}, not a Block "
                "Transformer: use drafter='model'"
            )
        if config.keys() != FIELDS - {"model_type"}:
            raise WeightsError(
                f"{folder / 'config.json'} says {', '.join(sorted(config))}: a Block "
                f"Transformer's says {', '.join(sorted(FIELDS))} and nothing else"
            )
        model = BlockTransformer(**config)
        model.load_state_dict(
            {name: x.float() for name, x in load_file(folder / "model.safetensors").items()}
        )
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, (InvalidArgument, WeightsError)):
            raise
        what = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the Block Transformer in {folder} cannot be read: {what}") from error
    return model.requires_grad_(False).eval()


def save(model: BlockTransformer, config: dict[str, Any], folder: Path) -> None:
    """Write a folder that `load` reads; config: all that `BlockTransformer` is made of."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    with replacing(folder / "model.safetensors") as unfinished:
        save_file(weights, unfinished)
    write_text(folder / "config.json", json.dumps({"model_type": KIND, **config}, indent=1) + "\n")
