"""OpenAI's terms: what a request's fields mean here, and what answers look like."""

from __future__ import annotations

import base64
import io
import time
import uuid
from collections.abc import Mapping
from typing import Any

from specdec.errors import InvalidArgument

# Fields under the names that `Engine.generate` has for them, vLLM's additions among them.
_SAME = {
    "temperature", "top_p", "stop", "seed", "n", "logit_bias", "presence_penalty",
    "frequency_penalty", "top_k", "min_p", "typical_p", "repetition_penalty", "min_tokens",
    "stop_token_ids", "ignore_eos",
}  # fmt: skip
_LENGTHS = ("max_tokens", "max_completion_tokens")
# What errors of the engine call fields of a request.
_THEIRS = {"max_new_tokens": "max_tokens", "num_return_sequences": "n", "stop_strings": "stop"}
_SAYS_NOTHING = {"user", "metadata", "store", "safety_identifier"}  # of the text
# Values of fields that are not supported under which they ask for nothing.
_OFF: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None, False),
    "parallel_tool_calls": (None, True),
    "response_format": (None, {"type": "text"}),
    "suffix": (None,),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
_OF_SERVER = {"model", "stream", "stream_options"}


def settings_of(body: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """The settings of a request; `prompt` is the field that its text stands in.

    temperature is 1 where nothing is said, as there. Raises InvalidArgument for what is not
    understood.
    """
    known = {*_SAME, *_LENGTHS, *_SAYS_NOTHING, *_OF_SERVER, prompt}
    for name, value in body.items():
        if name in _OFF:
            if not any(type(value) is type(off) and value == off for off in _OFF[name]):
                raise InvalidArgument(f"{name} is not supported: leave it out")
        elif name not in known:
            raise InvalidArgument(f"{name} is not understood: leave it out")
    if prompt not in body:
        raise InvalidArgument(f"{prompt} is missing")
    found = {name: body[name] for name in _SAME if body.get(name) is not None}
    found.setdefault("temperature", 1.0)
    lengths = [body[name] for name in _LENGTHS if body.get(name) is not None]
    if lengths:
        if lengths[0] != lengths[-1]:
            raise InvalidArgument(f"{' and '.join(_LENGTHS)} differ: give one of them")
        found["max_new_tokens"] = lengths[0]
    if isinstance(found.get("logit_bias"), Mapping):
        found["logit_bias"] = _by_number(found["logit_bias"])
    return found


def _by_number(biases: Mapping[str, Any]) -> dict[Any, Any]:
    """Biases by token ids, which JSON has as texts; what is no number is left to be refused."""
    return {int(key) if key.isdecimal() else key: bias for key, bias in biases.items()}


def streams(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the answer is sent part by part, and whether tokens are counted at its end."""
    wanted, options = body.get("stream"), body.get("stream_options")
    if wanted not in (None, True, False) or type(wanted) is int:
        raise InvalidArgument(f"stream={wanted!r}: give true or false")
    if options is None:
        return bool(wanted), False
    if not wanted:
        raise InvalidArgument("stream_options are of a stream: give stream too, or leave them out")
    if not isinstance(options, Mapping):
        raise InvalidArgument("stream_options is no object")
    for name in options:
        if name != "include_usage":
            raise InvalidArgument(f"stream_options.{name} is not understood: leave it out")
    counts = options.get("include_usage")
    if counts is not None and not isinstance(counts, bool):
        raise InvalidArgument(f"stream_options.include_usage={counts!r}: give true or false")
    return True, bool(counts)


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Chat messages, with images out of their data URLs."""
    messages = body["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise InvalidArgument("messages is no list of messages")
    return [_message(message) for message in messages]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    parts = [_image(part) if _is_image(part) else part for part in content]
    return {**message, "content": parts}


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image_url"


def _image(part: Mapping[str, Any]) -> dict[str, Any]:
    from PIL import Image

    given = part.get("image_url")
    if not isinstance(given, Mapping):
        raise InvalidArgument('image_url is no object: give {"url": "data:image/...;base64,..."}')
    for name in (*(part.keys() - {"type", "image_url"}), *(given.keys() - {"url", "detail"})):
        raise InvalidArgument(f"{name} of an image is not understood: leave it out")
    if given.get("detail") not in (None, "auto"):
        raise InvalidArgument("detail is not supported: an image is read in its own size")
    head, _, data = str(given.get("url", "")).partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise InvalidArgument("image_url is fetched from nowhere: send data:image/...;base64,...")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        image.load()
    except Image.DecompressionBombError as error:
        raise InvalidArgument(f"image_url is too large: {error}") from error
    except (ValueError, OSError, SyntaxError) as error:
        raise InvalidArgument(f"image_url holds no image: {error}") from error
    return {"type": "image", "image": image}


class Answer:
    """The frame of one answer: ids and names that each of its parts repeats."""

    def __init__(self, model: str, is_chat: bool) -> None:
        self.model, self.is_chat = model, is_chat
        kind = "chatcmpl" if is_chat else "cmpl"
        self.id, self.created = f"{kind}-{uuid.uuid4().hex}", int(time.time())

    def _frame(self, chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.is_chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def whole(self, texts: list[str], reasons: list[str], usage: dict[str, int]) -> dict[str, Any]:
        """All of it at once."""
        choices: list[dict[str, Any]] = []
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            said: dict[str, Any] = {"text": text}
            if self.is_chat:
                said = {"message": {"role": "assistant", "content": text}}
            choices.append({"index": index, **said, "finish_reason": reason, "logprobs": None})
        return {**self._frame(False), "choices": choices, "usage": usage}

    def part(self, index: int, text: str, reason: str | None, is_first: bool) -> dict[str, Any]:
        """What a step has added to one of its texts."""
        said: dict[str, Any] = {"text": text}
        if self.is_chat:
            role = {"role": "assistant"} if is_first else {}
            said = {"delta": {**role, "content": text}}
        choice = {"index": index, **said, "finish_reason": reason, "logprobs": None}
        return {**self._frame(True), "choices": [choice]}

    def used(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last part, where the client asked for it."""
        return {**self._frame(True), "choices": [], "usage": usage}


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Counted tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def failure(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """An error as clients expect it, with the names that they know."""
    for ours, theirs in _THEIRS.items():
        message = message.replace(ours, theirs)
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
