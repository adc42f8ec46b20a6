"""transformers' own `generate`, told every setting of a comparison: what ours is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from specdec.errors import InvalidArgument
from specdec.sampling.prompt import Prompt


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
    model: PreTrainedModel,
    asked: Sequence[int] | Prompt,
    eos_token_ids: Sequence[int],
    **settings: Any,
) -> list[int]:
    """The new tokens of `model.generate` for a prompt, by these ends and settings and no others.

    What a prompt holds of images goes there as embeddings. Raises InvalidArgument for one that has
    more than those: positions of its own, features for layers, tokens that see each other.
    """
    given = _given(model, asked)
    assistant = settings.get("assistant_model")
    generate: Any = model.generate
    with ExitStack() as stack:
        for each in (model, assistant):
            if each is not None:
                stack.enter_context(bare_config(each))
        out = generate(
            **given,
            eos_token_id=list(eos_token_ids) or None,
            pad_token_id=eos_token_ids[0] if eos_token_ids else None,
            **settings,
        )
    text: list[int] = out[0, 0 if isinstance(asked, Prompt) else len(asked) :].tolist()
    return text


def _given(model: PreTrainedModel, asked: Sequence[int] | Prompt) -> dict[str, Tensor]:
    """Ids or embeddings, and their mask."""
    ids = asked.ids if isinstance(asked, Prompt) else list(asked)
    prompt = torch.tensor([ids], device=model.device)
    mask = torch.ones_like(prompt)
    if not isinstance(asked, Prompt):
        return {"input_ids": prompt, "attention_mask": mask}
    if asked.positions is not None or any(x.bidirectional or x.deepstack for x in asked.spans):
        raise InvalidArgument(
            f"{type(model).__name__} reads its images in a way that transformers' generate cannot "
            "be told by embeddings: leave out the baselines hf, hf-pld and hf-assisted"
        )
    embedding: Any = model.get_input_embeddings()
    embedded = embedding(prompt).clone()
    for span in asked.spans:
        embedded[0, span.start : span.end] = span.read().to(embedded)
    return {"inputs_embeds": embedded, "attention_mask": mask}
