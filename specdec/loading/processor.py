"""Processors: what turns messages with images into tensors, loaded beside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from specdec.vision.inputs import reads_images

_FILES = ("processor_config.json", "preprocessor_config.json")


class FoundProcessor(NamedTuple):
    """A processor, or why there is none."""

    processor: Any = None
    reason: str = ""


def is_for_images(config: Any) -> bool:
    """Whether transformers has a class for images and text that is made of this configuration."""
    return type(config) in AutoModelForImageTextToText._model_mapping


def load_processor(
    model: PreTrainedModel, where: str, local: bool, options: dict[str, Any]
) -> FoundProcessor:
    """The processor of a model for images; None for a text model, and where it cannot be had: the
    engine then takes text, and tensors that another processor has made."""
    if not reads_images(model):
        return FoundProcessor()
    if local and not any((Path(where) / name).is_file() for name in _FILES):
        return FoundProcessor(None, f"{where} holds no {_FILES[0]}")
    try:
        found = AutoProcessor.from_pretrained(where, **options)
    except Exception as error:  # of many libraries: what they say is passed on
        said = " ".join(str(error).split())[:300] or type(error).__name__
        hint = "" if "torchvision" in said else "; most video processors need torchvision"
        return FoundProcessor(None, f"it cannot be loaded: {said}{hint}")
    if not hasattr(found, "image_processor"):  # transformers gives a tokenizer where that is all
        return FoundProcessor(None, f"{where} has none for images, as far as transformers knows")
    return FoundProcessor(found)


def processor_at_hand(model: PreTrainedModel) -> FoundProcessor:
    """The processor of a loaded model where it lies on this machine, else none."""
    name = model.name_or_path
    if not name:
        return FoundProcessor()
    return load_processor(model, name, False, {"local_files_only": True})
