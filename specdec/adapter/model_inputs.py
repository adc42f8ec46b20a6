"""What `model.generate` would hand to the model: understood, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument
from specdec.sampling.foreign_names import CALL
from specdec.sampling.prompt import Prompt
from specdec.vision.inputs import (
    NAMES,
    OPTIONS,
    TYPES,
    check,
    holds_images,
    is_zero,
    text_alone,
)
from specdec.vision.reading import read_prepared

# Of no consequence for the text: how much of a pass is kept, and how many of its logits are made.
_HARMLESS = {"use_cache", "logits_to_keep"}
_READ = {"input_ids", "attention_mask", "position_ids", "past_key_values"}
# Values that ask for nothing; a model for images gets an empty dict of them for mere text.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "output_attentions": (False,), "output_hidden_states": (False,),
    "output_router_logits": (False,), "debug_io": (False,), "is_causal": (True,),
    "mm_encoder_outputs": ({},),
}  # fmt: skip


class Inputs(NamedTuple):
    """Token ids with their mask, or Prompts with images; and the padding in front of each row."""

    prompt: dict[str, Any] | list[Prompt]
    before: list[list[int]]


def read(
    model: PreTrainedModel,
    input_ids: Tensor,
    keywords: Mapping[str, Any],
    prepared: Mapping[str, Any],
    copies: int,
) -> Inputs:
    """The inputs of a call, `input_ids[B, L]` and what else the model would be given.

    keywords: as the caller gave them; prepared: what transformers made of them, with each row of
    the caller's `copies` times. Raises InvalidArgument for what would change the model's answer and
    does not reach it here: embeddings, token types, positions of the caller's own, a cache; and for
    a batch that is not padded on the left.
    """
    given, has_images = {**keywords, **prepared}, holds_images(keywords)
    known = {*_READ, *_HARMLESS}
    if has_images:
        known |= {*NAMES, *OPTIONS, *TYPES, "mm_encoder_outputs"}
    else:
        check(given, model)
        text_alone({name: given[name] for name in NAMES if name in given})
        known |= {*NAMES, *(name for name in TYPES if is_zero(given.get(name)))}
    for name, value in given.items():
        if value is None or name in known:
            continue
        if name not in _NEUTRAL or value not in _NEUTRAL[name]:
            raise _refused(name)
    if input_ids.dim() != 2 or not input_ids.numel():
        raise InvalidArgument(f"input_ids has the shape {tuple(input_ids.shape)}: give [B, L]")
    mask = _mask(input_ids, given.get("attention_mask"))
    starts = mask.argmax(-1)
    _check_positions(mask, (keywords if has_images else given).get("position_ids"))
    _check_cache(given.get("past_key_values"))
    ids = input_ids.tolist()
    before = [row[:start] for row, start in zip(ids, starts.tolist(), strict=True)]
    if has_images:
        return Inputs(read_prepared(input_ids, prepared, keywords, model, copies), before)
    return Inputs({"input_ids": ids, "attention_mask": mask.tolist()}, before)


def _mask(input_ids: Tensor, mask: Any) -> Tensor:
    """The attention mask `int64[B, L]`: zeros, then ones."""
    if mask is None:
        return torch.ones_like(input_ids, dtype=torch.int64)
    mask = torch.as_tensor(mask)
    if mask.shape != input_ids.shape:
        raise InvalidArgument(
            f"attention_mask has the shape {tuple(mask.shape)} and input_ids "
            f"{tuple(input_ids.shape)}: give one number for each token"
        )
    whole: Tensor = mask.to(torch.int64)
    if not ((mask == whole) & ((whole == 0) | (whole == 1))).all():
        raise InvalidArgument("attention_mask holds other values than 0 and 1")
    for i, row in enumerate(whole):
        if not row[-1] or (row.diff() < 0).any():
            raise InvalidArgument(
                f"row {i} of input_ids is empty or padded elsewhere than on the left: set "
                "tokenizer.padding_side = 'left'"
            )
    return whole


def _check_positions(mask: Tensor, positions: Any) -> None:
    """Raise unless every token stands where it would stand without `position_ids`."""
    if positions is None:
        return
    positions = torch.as_tensor(positions).to(mask.device)
    usual = mask.cumsum(-1) - 1
    try:
        agrees = ((positions == usual) | (mask == 0)).all()
    except RuntimeError:  # another length
        agrees = torch.tensor(False)
    if not agrees:
        raise InvalidArgument(
            "position_ids are not those of the tokens behind the padding, and other positions "
            "are not supported: leave them out"
        )


def _check_cache(cache: Any) -> None:
    """Raise for a cache of the caller's own; transformers makes an empty one for every call."""
    if cache is None:
        return
    is_theirs = getattr(cache, "_is_user_defined", False)
    if is_theirs or not hasattr(cache, "get_seq_length") or cache.get_seq_length() > 0:
        raise InvalidArgument(
            "past_key_values is not supported: specdec reads the prompt into a KV store of its "
            "own and would leave this cache as it is; leave it out"
        )


def _refused(name: str) -> InvalidArgument:
    hint = CALL[name].instead if name in CALL else "the model is given nothing but input_ids here"
    return InvalidArgument(f"{name} is not supported by specdec.hf.generate: {hint}")
