"""PromptInputs: what a chunk of a prompt gives a model besides ids and places."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.model.chunks import Chunk
from specdec.model.text_part import decoder_of
from specdec.sampling.prompt import Prompt
from specdec.sampling.span import Span

DEEPSTACK = "deepstack_visual_embeds"  # how transformers' decoders take features for their layers


@dataclass(frozen=True, eq=False)
class PromptInputs:
    """Of `N` tokens of one sequence.

    embeddings: `[1, N, hidden]`; position_ids: `int64[D, 1, N]`, or `[1, N]`
    where D is 1; None where they are the places;
    blocks: `int64[N]`, the number of the span whose tokens see each other, or -1; None: none.
    layers: keywords of a decoder that adds features to the output of its first layers.
    """

    embeddings: Tensor
    position_ids: Tensor | None
    blocks: Tensor | None
    layers: dict[str, Any]


def prompt_inputs(model: PreTrainedModel, prompt: Prompt, chunk: Chunk) -> PromptInputs:
    """What `chunk` of a text that begins with `prompt` is to be read as."""
    embedding: Any = model.get_input_embeddings()
    device = embedding.weight.device
    embedded = embedding(torch.tensor([chunk.tokens], device=device))
    start, stop = chunk.positions[0], chunk.positions[0] + chunk.kept
    blocks = torch.full((len(chunk.tokens),), -1)
    features: list[tuple[slice, Span, slice]] = []
    for number, span in enumerate(prompt.spans):
        first, end = max(span.start, start), min(span.end, stop)
        if first >= end:
            continue
        here, there = slice(first - start, end - start), slice(first - span.start, end - span.start)
        embedded[0, here] = span.read()[there].to(embedded)
        if span.bidirectional:
            blocks[here] = number
        if span.deepstack:
            features.append((here, span, there))
    return PromptInputs(
        embedded,
        None if prompt.positions is None else _positions(prompt, chunk, device),
        blocks.to(device) if bool((blocks >= 0).any()) else None,
        _layers(features, embedded),
    )


def takes_deepstack(model: PreTrainedModel) -> bool:
    """Whether the model's decoder adds features to the output of its first layers."""
    return DEEPSTACK in signature(type(decoder_of(model)).forward).parameters


def _positions(prompt: Prompt, chunk: Chunk, device: torch.device) -> Tensor:
    """`int64[D, 1, N]` or `[1, N]`: the prompt's own, and then those of text."""
    assert prompt.positions is not None
    places = torch.tensor(chunk.positions)
    behind = (places + prompt.offset).expand(len(prompt.positions), -1)
    inside = places < len(prompt.ids)
    found = torch.where(inside, prompt.positions[:, places.clamp_max(len(prompt.ids) - 1)], behind)
    return (found if len(found) == 1 else found[:, None]).to(device)


def _layers(features: list[tuple[slice, Span, slice]], embedded: Tensor) -> dict[str, Any]:
    if not features:
        return {}
    seen = torch.zeros(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
    for here, _, _ in features:
        seen[0, here] = True
    depth = len(features[0][1].deepstack)
    added = [
        torch.cat([span.deepstack[layer][there].to(embedded) for _, span, there in features])
        for layer in range(depth)
    ]
    return {"visual_pos_masks": seen, DEEPSTACK: added}
