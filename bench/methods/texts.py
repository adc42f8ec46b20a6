"""Texts: what methods draft along, of a length that can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specdec.bench.workloads import manual, source
from specdec.errors import InvalidArgument

_ASKED = "Sum up this text, chapter by chapter.\n\n"
_PLACE = "\x02"  # where the text goes


def prompts(tokenizer: Any, more: Mapping[str, str], contexts: list[int]) -> dict[str, list[int]]:
    """By name, tokens to cut prompts from (see `prompt`): code, prose, a chapter to be summed up,
    and `more` texts. Raises InvalidArgument for one that is shorter than the longest context."""
    texts = {"code": source(), "prose": manual(), "summary": manual()[100_000:], **more}
    found = {name: list(tokenizer(text)["input_ids"]) for name, text in texts.items()}
    for name, ids in found.items():
        if len(ids) < max(contexts):
            raise InvalidArgument(
                f"text {name!r} has {len(ids)} tokens, and --contexts asks for {max(contexts)}: "
                "give smaller ones"
            )
    return found


def prompt(tokenizer: Any, name: str, ids: list[int], context: int) -> list[int]:
    """`context` tokens of a text; of `summary` with the question around them, in the model's chat
    template if it has one."""
    if name != "summary":
        return ids[:context]
    text = _ASKED + _PLACE
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before, after = (_ids(tokenizer, part) for part in text.split(_PLACE))
    else:
        before = list(tokenizer(_ASKED)["input_ids"])
        after = _ids(tokenizer, "\n\nIn short, it says this:")
    room = max(0, context - len(before) - len(after))
    return [*before, *ids[:room], *after][-context:]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
