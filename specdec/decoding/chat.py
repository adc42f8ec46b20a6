"""Chat messages as token ids: by the model's own template, which must understand all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from specdec.decoding.text_ids import text_ids
from specdec.errors import InvalidArgument

# Roles that every template may be given; others must be named in it.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_TEXT = (str, bytes, bytearray, memoryview)
_SAID = frozenset({"system", "developer", "user"})  # whose words no template has cause to change


def chat_ids(messages: Sequence[Any], tokenizer: Any, name: str) -> list[int]:
    """Token ids of a conversation, ready for the assistant's next words.

    A last message of the assistant is a beginning that the model goes on from. Contents are texts
    or lists of text parts. `name` is what errors call the conversation. Raises InvalidArgument for
    whatever the template, or this function, does not understand.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise InvalidArgument("this model has no chat template: give the prompt as text")
    read = [
        _message(message, f"message {i} of {name}", str(template))
        for i, message in enumerate(messages)
    ]
    if any(isinstance(message.get("content"), list) for message in read):
        read = _in_parts(read, tokenizer)
    text = rendered(tokenizer, read, name)
    check_shown(read, text, name)
    # The template writes its own special tokens.
    return text_ids(text, tokenizer, name, add_special_tokens=False)


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of messages."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, _TEXT) or not len(prompt):
        return False
    return isinstance(prompt[0], Mapping) and "input_ids" not in prompt[0]


def check_shown(messages: Sequence[Mapping[str, Any]], text: str, name: str) -> None:
    """Raise InvalidArgument where a template has left out what somebody says."""
    for i, message in enumerate(messages):
        if message["role"] in _SAID and not all(said in text for said in _texts(message)):
            raise InvalidArgument(
                f"the model's chat template leaves out message {i} of {name} (role "
                f"{message['role']!r}): put its content into a message that the template shows"
            )


def _message(message: Any, name: str, template: str) -> dict[str, Any]:
    """A message whose every key will be understood, with its content as a text or several."""
    given = check_message(message, name, template)
    content = given.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [_part(part, f"part {i} of {name}") for i, part in enumerate(content)]
        given["content"] = parts if len(parts) != 1 else parts[0]
    elif content is not None and not isinstance(content, str):
        raise InvalidArgument(f"the content of {name} is a {type(content).__name__}: give text")
    return given


def check_message(message: Any, name: str, template: str) -> dict[str, Any]:
    """A message whose every key the template will understand, with its content as it is."""
    if not isinstance(message, Mapping):
        raise InvalidArgument(f"{name} is a {type(message).__name__}: give a dict")
    given = {key: value for key, value in message.items() if value is not None}
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str):
        raise InvalidArgument(f"{name} has no role: give 'system', 'user' or 'assistant'")
    if role not in _ROLES and not _names(template, role):
        raise InvalidArgument(
            f"{name} has the role {role!r}, which the model's chat template does not know: give "
            "'system', 'user' or 'assistant'"
        )
    for key in given:
        if key not in ("role", "content") and not _names(template, key):
            raise InvalidArgument(
                f"{name} has {key!r}, which the model's chat template does not read: leave it out"
            )
    if content is None and not given.get("tool_calls"):
        raise InvalidArgument(f"{name} has no content: give its text")
    return given


def _part(part: Any, name: str) -> str:
    """The text of one part of a content."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or set(part) != {"type", "text"} or not isinstance(part["text"], str):
        raise InvalidArgument(
            f"{name} is of type {kind!r}: only text is read, as in "
            '{"type": "text", "text": "Hello"}'
        )
    return str(part["text"])


def _in_parts(messages: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """The messages with their texts as parts if the template takes parts, else as lines of one."""

    def shown(content: Any) -> Any:
        return _apply(tokenizer, [{"role": "user", "content": content}])

    def parts(texts: list[str]) -> list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts]

    try:
        takes_parts = shown(parts(["x"])) == shown("x")
    except Exception:  # of templates, which may do anything
        takes_parts = False
    return [
        {**message, "content": parts(content) if takes_parts else "\n".join(content)}
        if isinstance(content := message.get("content"), list)
        else message
        for message in messages
    ]


def rendered(tokenizer: Any, messages: list[dict[str, Any]], name: str) -> str:
    """The conversation as text by the template of a tokenizer or processor, open for the assistant
    to go on."""
    goes_on = messages[-1]["role"] == "assistant"
    how = {"continue_final_message": True} if goes_on else {"add_generation_prompt": True}
    try:
        return str(_apply(tokenizer, messages, **how))
    except Exception as error:  # of templates, which may do anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument(
            f"the model's chat template does not take {name} ({said[:300]}): change the messages, "
            "or give the prompt as text"
        ) from error


def _apply(tokenizer: Any, messages: list[dict[str, Any]], **how: bool) -> Any:
    return tokenizer.apply_chat_template(messages, tokenize=False, **how)


def _texts(message: Mapping[str, Any]) -> list[str]:
    """What a message says, without the space around it, which templates may trim."""
    content = message.get("content") or ""
    texts = [content] if isinstance(content, str) else [x["text"] for x in content if "text" in x]
    return [text.strip() for text in texts]


def _names(template: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", template) is not None
