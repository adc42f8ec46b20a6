"""Prompts with images: whatever of a call's prompt holds them, as `Prompt`s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedModel

from specdec.decoding.chat import is_chat
from specdec.decoding.chat_images import holds_images, processed_chat
from specdec.errors import InvalidArgument
from specdec.plain import plain
from specdec.sampling.prompt import Prompt
from specdec.vision.encoder_cache import EncoderCache
from specdec.vision.inputs import reads_images
from specdec.vision.reading import read_processed


class ReadsImages(Protocol):
    """A model and, if it has one, its processor. no_processor: why it has none, if known.

    encoder_cache: of what its tower has made of images.
    """

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def processor(self) -> Any: ...

    @property
    def encoder_cache(self) -> EncoderCache: ...


@dataclass(frozen=True)
class ImageReader:
    """A model and its processor, to ask `with_images` where there is no engine."""

    model: PreTrainedModel
    processor: Any
    encoder_cache: EncoderCache = field(default_factory=EncoderCache)


def with_images(prompt: Any, host: ReadsImages) -> Any:
    """`prompt` with `Prompt`s in place of what a processor returned for images, and of messages
    where the model has a processor; everything else as it is.

    Raises InvalidArgument for images that the model or its processor does not take.
    """
    if isinstance(prompt, Mapping) and "input_ids" in prompt:
        return read_processed(prompt, host.model, host.encoder_cache)
    if is_chat(prompt):
        return _chat(prompt, host, "prompt 0")
    if isinstance(prompt, (list, tuple)) and any(map(_may_hold, prompt)):
        return [_one(one, host, i) for i, one in enumerate(prompt)]
    return prompt


def _may_hold(prompt: Any) -> bool:
    return isinstance(prompt, Mapping) or is_chat(prompt)


def _one(prompt: Any, host: ReadsImages, place: int) -> Any:
    """A prompt of a list; what a processor returned for one row counts as one."""
    if is_chat(prompt):
        return _chat(prompt, host, f"prompt {place}")
    if not isinstance(prompt, Mapping) or "input_ids" not in prompt:
        return prompt
    read = read_processed(prompt, host.model, host.encoder_cache)
    if isinstance(read, list):
        if len(read) != 1:
            raise InvalidArgument(
                f"prompt {place} holds {len(read)} prompts: give them as a list of their own"
            )
        return read[0]
    return read


def _chat(messages: Any, host: ReadsImages, name: str) -> Any:
    """Messages as a Prompt, by the processor; without images also as they are."""
    has_images = holds_images(messages)
    processor = host.processor if reads_images(host.model) else None
    if not has_images and not getattr(processor, "chat_template", None):
        return messages
    if processor is None:
        kind = type(host.model).__name__
        if not reads_images(host.model):
            raise InvalidArgument(
                f"{name} holds more than text, and {kind} reads text alone: load a model for "
                "images, or leave them out"
            )
        why = getattr(host, "no_processor", "") or "it was given none"
        raise InvalidArgument(
            f"{name} holds more than text, and this engine has no processor ({why}): write "
            "Engine(model, processor=AutoProcessor.from_pretrained(...)), or give what a processor "
            "returns as the prompt"
        )
    given = processed_chat(messages, processor, name)
    read = read_processed(given, host.model, host.encoder_cache)
    if isinstance(read, list):
        return read[0]
    return Prompt(plain(read["input_ids"])[0])
