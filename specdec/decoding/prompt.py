"""Prompts as they are given: text, token ids, messages or `Prompt`s, one or a list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch

from specdec.decoding.chat import chat_ids, is_chat
from specdec.decoding.padding import check_no_padding, unpadded
from specdec.decoding.text_ids import text_ids
from specdec.errors import InvalidArgument
from specdec.plain import ARRAYS, plain
from specdec.sampling.prompt import Prompt
from specdec.vision.inputs import NAMES

# What a tokenizer returns beside these would have to reach the model.
_ENCODED = ("input_ids", "attention_mask", "token_type_ids")


class _Prompt(NamedTuple):
    """One prompt as it was given: a text, messages, or ids, cut to an attention mask if masked."""

    content: Any
    masked: bool = False


def parse_prompts(prompt: Any, tokenizer: Any, vocab_size: int) -> tuple[list[list[int]], bool]:
    """As `read_prompts`, of prompts that hold nothing but token ids."""
    prompts, is_list = read_prompts(prompt, tokenizer, vocab_size)
    if not all(one.is_plain for one in prompts):
        raise InvalidArgument("spans and positions of a Prompt are not understood here: give ids")
    return [one.ids for one in prompts], is_list


def read_prompts(prompt: Any, tokenizer: Any, vocab_size: int) -> tuple[list[Prompt], bool]:
    """Every prompt, and whether the caller gave a list of prompts.

    Takes a string, token ids (a sequence of whole numbers, Python's, NumPy's or PyTorch's), chat
    messages (a list of dicts with role and content), a `Prompt`, a list of these, a 2-D array, or
    what a tokenizer returns: padding is cut off by its attention mask, on the left or on the right.
    Raises InvalidArgument, with the place, for anything else, and for padding that no mask tells
    apart.
    """
    prompts, is_list = _prompts(prompt)
    if not prompts:
        raise InvalidArgument("prompt is empty: give at least one token, or one prompt")
    read = [_ids(one.content, i, tokenizer, vocab_size) for i, one in enumerate(prompts)]
    bare = {
        i: ids
        for i, (one, ids) in enumerate(zip(prompts, read, strict=True))
        if not one.masked
        and not isinstance(one.content, (str, Prompt))
        and not is_chat(one.content)
    }
    check_no_padding(bare, tokenizer, of_one_array=isinstance(prompt, (*ARRAYS, Mapping)))
    whole = [
        one.content if isinstance(one.content, Prompt) else Prompt(ids)
        for one, ids in zip(prompts, read, strict=True)
    ]
    return whole, is_list


def split_keywords(keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of a call that belong to its prompt, as in `generate(**tokenizer(text))`; others."""
    theirs = (*_ENCODED, *NAMES)
    given = {name: keywords[name] for name in theirs if keywords.get(name) is not None}
    return given, {name: value for name, value in keywords.items() if name not in theirs}


def whole_prompt(prompt: Any, given: Mapping[str, Any]) -> Any:
    """The prompt of a call, which may stand in its keywords; an attention mask alone goes with a
    prompt of token ids."""
    if prompt is not None and "input_ids" in given:
        raise InvalidArgument("a prompt and input_ids were both given: give one of them")
    if prompt is None and not given:
        raise InvalidArgument("there is no prompt: give a string, token ids or chat messages")
    if prompt is not None and given:
        given = {"input_ids": prompt, **given}
    return given or prompt


def _prompts(prompt: Any) -> tuple[list[_Prompt], bool]:
    """The prompts one by one, and whether they were given as a list."""
    if isinstance(prompt, Mapping):
        return _encoded(prompt)
    if isinstance(prompt, ARRAYS):
        return _array(prompt, "prompt")
    if isinstance(prompt, (str, Prompt)):
        return [_Prompt(prompt)], False
    if not _is_sequence(prompt):
        raise InvalidArgument(
            f"prompt is a {type(prompt).__name__}: give a string, token ids, chat messages, or a "
            "list of them"
        )
    if len(prompt) and (_is_number(prompt[0]) or is_chat(prompt)):
        return [_Prompt(prompt)], False
    return [_one_of_list(one, i) for i, one in enumerate(prompt)], True


def _one_of_list(prompt: Any, place: int) -> _Prompt:
    """A prompt inside a list; an array of it, or what a tokenizer returned, may hold only one."""
    if not isinstance(prompt, (Mapping, *ARRAYS)):
        return _Prompt(prompt)
    inside, _ = _prompts(prompt)
    if len(inside) != 1:
        raise InvalidArgument(
            f"prompt {place} holds {len(inside)} prompts: give them as a list of their own"
        )
    return inside[0]


def _array(array: Any, name: str) -> tuple[list[_Prompt], bool]:
    if array.ndim not in (1, 2):
        kind = "a tensor" if isinstance(array, torch.Tensor) else "an array"
        raise InvalidArgument(f"{name} is {kind} of {array.ndim} dimensions: give 1 or 2")
    if isinstance(array, torch.Tensor) and not _is_dense(array):
        kind = "nested" if array.is_nested else "meta" if array.is_meta else str(array.layout)
        raise InvalidArgument(f"{name} is a tensor of kind {kind}: give a dense one or lists")
    if array.ndim == 1:
        return [_Prompt(array.tolist())], False
    return [_Prompt(row) for row in array.tolist()], True


def _is_dense(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_nested) and tensor.layout == torch.strided


def _encoded(given: Mapping[str, Any]) -> tuple[list[_Prompt], bool]:
    """What a tokenizer returned; its attention mask tells the padding."""
    if "input_ids" not in given:
        hint = ": give a list of messages" if "role" in given else f" of {', '.join(given)}"
        raise InvalidArgument(f"prompt is a dict without input_ids{hint}")
    for name, value in given.items():
        if name not in _ENCODED and value is not None:
            raise InvalidArgument(
                f"prompt holds {name}, which is not understood: give input_ids and attention_mask"
            )
    if _has_others_than_0(plain(given.get("token_type_ids"))):
        raise InvalidArgument("token_type_ids other than 0 are not understood: leave them out")
    ids, mask = given["input_ids"], given.get("attention_mask")
    if isinstance(ids, ARRAYS):
        prompts, is_list = _array(ids, "input_ids")
    elif not _is_sequence(ids):
        raise InvalidArgument(f"input_ids is a {type(ids).__name__}: give token ids")
    else:
        is_list = not (len(ids) and _is_number(ids[0]))
        prompts = [_Prompt(row) for row in (ids if is_list else [ids])]
    if mask is None:
        return prompts, is_list
    masks = plain(mask)
    if isinstance(masks, list) and masks and _is_number(masks[0]):
        masks = [masks]
    if not _is_sequence(masks) or len(masks) != len(prompts):
        raise InvalidArgument("attention_mask does not have the shape of input_ids")
    return [
        _Prompt(unpadded(one.content, keep, i), masked=True)
        for i, (one, keep) in enumerate(zip(prompts, masks, strict=True))
    ], is_list


def _ids(prompt: Any, place: int, tokenizer: Any, vocab_size: int) -> list[int]:
    """Token ids of one prompt, all of them inside the vocabulary."""
    if isinstance(prompt, str) or is_chat(prompt):
        if tokenizer is None:
            raise InvalidArgument(
                "this engine has no tokenizer: put the files of the model's (tokenizer.json and "
                "its like) into its folder, or give the prompt as token ids"
            )
        name = f"prompt {place}"
        ids = (
            text_ids(prompt, tokenizer, name)
            if isinstance(prompt, str)
            else chat_ids(prompt, tokenizer, name)
        )
    elif isinstance(prompt, Prompt):
        ids = prompt.ids
    elif _is_sequence(prompt):
        ids = [plain(token) for token in prompt]
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


def _has_others_than_0(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_others_than_0(item) for item in value)
    return value not in (None, 0)


def _is_number(value: Any) -> bool:
    """Whether a value, right or wrong, was meant as one token id, and not as a prompt."""
    if isinstance(value, ARRAYS):
        return value.ndim == 0
    return isinstance(value, (Number, np.generic)) and not isinstance(value, str)


def _is_sequence(value: Any) -> bool:
    """Whether a value has an order of its own, and is neither text nor bytes."""
    return isinstance(value, Sequence) and not isinstance(
        value, (str, bytes, bytearray, memoryview)
    )
