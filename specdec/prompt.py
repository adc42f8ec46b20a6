"""Prompts: text, token ids or chat messages, one or a list of them, as lists of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from specdec.errors import InvalidArgument


def parse_prompts(prompt: Any, tokenizer: Any, vocab_size: int) -> tuple[list[list[int]], bool]:
    """Token ids of every prompt, and whether the caller gave a list of prompts.

    Takes a string, token ids (list of int, 1-D tensor), chat messages (list of dicts with role and
    content), a list of these, a 2-D tensor, or what a tokenizer returns (padding is cut off).
    """
    if isinstance(prompt, Mapping) and "input_ids" in prompt:
        prompts, is_list = _encoded(prompt)
    elif isinstance(prompt, torch.Tensor):
        prompts, is_list = _tensor(prompt)
    elif _is_one(prompt):
        prompts, is_list = [prompt], False
    elif isinstance(prompt, Sequence):
        prompts, is_list = list(prompt), True
    else:
        raise InvalidArgument(
            f"prompt is a {type(prompt).__name__}: give a string, token ids, chat messages, or a "
            "list of them"
        )
    if not prompts:
        raise InvalidArgument("prompt is empty: give at least one token, or one prompt")
    return [_ids(one, i, tokenizer, vocab_size) for i, one in enumerate(prompts)], is_list


def _is_one(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return True
    if not isinstance(prompt, Sequence) or not prompt:
        return False
    return isinstance(prompt[0], (int, Mapping)) and not (
        isinstance(prompt[0], Mapping) and "input_ids" in prompt[0]
    )


def _tensor(prompt: torch.Tensor) -> tuple[list[Any], bool]:
    if prompt.dim() == 1:
        return [prompt.tolist()], False
    if prompt.dim() == 2:
        return prompt.tolist(), True
    raise InvalidArgument(f"prompt is a tensor of {prompt.dim()} dimensions: give 1 or 2")


def _encoded(prompt: Mapping[str, Any]) -> tuple[list[Any], bool]:
    """What a tokenizer returns; its attention mask tells the padding."""
    ids, mask = prompt["input_ids"], prompt.get("attention_mask")
    rows, is_list = _tensor(torch.as_tensor(ids)) if isinstance(ids, torch.Tensor) else (ids, True)
    if rows and isinstance(rows[0], int):
        rows, is_list = [rows], False
    if mask is None:
        return list(rows), is_list
    masks = torch.as_tensor(mask).reshape(len(rows), -1).tolist() if len(rows) == 1 else mask
    masks = masks.tolist() if isinstance(masks, torch.Tensor) else masks
    kept = [
        [token for token, keep in zip(row, keeps, strict=True) if keep]
        for row, keeps in zip(rows, masks, strict=True)
    ]
    return kept, is_list


def _ids(prompt: Any, place: int, tokenizer: Any, vocab_size: int) -> list[int]:
    """Token ids of one prompt, all of them inside the vocabulary."""
    if isinstance(prompt, torch.Tensor):
        prompt = prompt.tolist()
    if isinstance(prompt, str) or (
        isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping)
    ):
        if tokenizer is None:
            raise InvalidArgument("this engine has no tokenizer: give the prompt as token ids")
        ids = _tokenize(prompt, tokenizer)
    elif isinstance(prompt, Sequence):
        ids = list(prompt)
    else:
        raise InvalidArgument(f"prompt {place} is a {type(prompt).__name__}, not text or token ids")
    if not ids:
        raise InvalidArgument(f"prompt {place} has no tokens: give at least one")
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InvalidArgument(
                f"prompt {place} holds {token!r}, which is no token id from 0 to {vocab_size - 1}"
            )
    return ids


def _tokenize(prompt: Any, tokenizer: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgument("this model has no chat template: give the prompt as text")
    text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
    # The template writes its own special tokens.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
