"""The call of `model.generate` that the adapter is called from, and what transformers keeps to
itself.

transformers (5.23) hands a callable `custom_generate` what its signature names beyond that of its
own loop, and drops the rest: a streamer, an assistant or `synced_gpus=True` would be ignored in
silence, and stop strings raise for want of the tokenizer that was given. So we look them up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from inspect import Parameter, Signature, signature
from types import FrameType, MappingProxyType
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

# Arguments of `model.generate` that do not arrive.
_KEPT = (
    "streamer", "assistant_model", "synced_gpus", "negative_prompt_ids",
    "negative_prompt_attention_mask",
)  # fmt: skip
_TOKENIZERS = ("tokenizer", "assistant_tokenizer")


class Call(NamedTuple):
    """A call of `model.generate`: what it does not hand over, and its keywords as they were given,
    which transformers may have turned into something else."""

    kept: dict[str, Any]
    keywords: dict[str, Any]


def call_of(model: PreTrainedModel) -> Call | None:
    """The `model.generate` that we are in; None if we are in none."""
    for frame in _frames():
        names = frame.f_locals
        is_generate = frame.f_code.co_name == "generate" and "custom_generate" in names
        if is_generate and names.get("self") is model:
            kept = {name: names.get(name) for name in _KEPT}
            return Call({n: v for n, v in kept.items() if v is not None}, dict(names["kwargs"]))
    return None


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether each pass of the model needs other processes, which would wait for ours for ever."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    alone = not together or torch.distributed.get_world_size() == 1
    return not alone and (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))


class AdapterSignature(Signature):
    """A signature that has transformers hand over the tokenizers.

    transformers takes them out of the caller's keywords just before it asks which of these a
    callable wants. Asked, we put them back.
    """

    @classmethod
    def of(cls, function: Callable[..., Any], names: Iterable[str]) -> AdapterSignature:
        """That of `function`, with keywords by name in front of its `**kwargs`."""
        *first, rest = signature(function).parameters.values()
        keywords = [Parameter(n, Parameter.KEYWORD_ONLY, default=None) for n in sorted(names)]
        return cls([*first, *keywords, rest])

    @property
    def parameters(self) -> MappingProxyType[str, Parameter]:
        for frame in _frames():
            if frame.f_code.co_name == "_extract_generation_mode_kwargs":
                names = frame.f_locals
                found, keywords = names.get("generation_mode_kwargs"), names.get("kwargs")
                if isinstance(found, dict) and isinstance(keywords, dict):
                    keywords.update({n: found[n] for n in _TOKENIZERS if n in found})
                break
        return super().parameters


def _frames() -> Iterator[FrameType]:
    """The frames below the one that asks, the nearest first."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        yield frame
        frame = frame.f_back
