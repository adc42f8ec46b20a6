"""transformers' own `generate`, told every setting of a comparison: what ours is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel


@contextmanager
def bare_config(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's generation config says nothing.

    transformers takes from it whatever a call leaves open, penalties and end tokens included, even
    beside a `generation_config=` of the call's own.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def stock_text(
    model: PreTrainedModel, ids: Sequence[int], eos_token_ids: Sequence[int], **settings: Any
) -> list[int]:
    """The new tokens of `model.generate` for a prompt, by these ends and settings and no others."""
    prompt = torch.tensor([list(ids)], device=model.device)
    assistant = settings.get("assistant_model")
    generate: Any = model.generate
    with ExitStack() as stack:
        for each in (model, assistant):
            if each is not None:
                stack.enter_context(bare_config(each))
        out = generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            eos_token_id=list(eos_token_ids) or None,
            pad_token_id=eos_token_ids[0] if eos_token_ids else None,
            **settings,
        )
    text: list[int] = out[0, len(ids) :].tolist()
    return text
