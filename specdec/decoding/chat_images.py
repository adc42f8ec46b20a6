"""Chat messages that may hold images, by a model's own processor: what the model is to be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from specdec.decoding.chat import check_message, check_shown, rendered
from specdec.errors import InvalidArgument
from specdec.vision.files import frames, image

FRAMES = 8  # of a video that is given as a file
_KINDS = ("image", "video")


def holds_images(messages: Sequence[Any]) -> bool:
    """Whether a conversation holds more than text."""
    return any(
        isinstance(part, Mapping) and part.get("type") not in (None, "text")
        for message in messages
        if isinstance(message, Mapping) and isinstance(message.get("content"), (list, tuple))
        for part in message["content"]
    )


def processed_chat(messages: Sequence[Any], processor: Any, name: str) -> Mapping[str, Any]:
    """A conversation as the processor gives it to its model, ready for the assistant's next words.

    Parts are texts, `{"type": "image", "image": PIL image, array or path}` and `{"type": "video",
    "video": frames or path}`. Raises InvalidArgument for what template or processor do not take.
    """
    template = getattr(processor, "chat_template", None)
    if not template:
        raise InvalidArgument(
            "this model's processor has no chat template: call it yourself, and give what it "
            "returns as the prompt"
        )
    images: list[Any] = []
    videos: list[list[Any]] = []
    read = []
    for i, message in enumerate(messages):
        where = f"message {i} of {name}"
        given = check_message(message, where, str(template))
        if given.get("content") is not None:
            given["content"] = _parts(given["content"], where, images, videos)
        read.append(given)
    if videos and getattr(processor, "video_processor", None) is None:
        raise InvalidArgument(
            f"{type(processor).__name__} reads no videos here (those of transformers need "
            "torchvision): give the frames as images, or what a processor returns for them"
        )
    text = _rendered(processor, read, name)
    check_shown(read, text, name)
    # as transformers' own apply_chat_template does it
    bos = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
    special = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    try:
        made: Mapping[str, Any] = processor(
            text=[text], images=[images] if images else None, return_tensors="pt", **special,
            **({"videos": [videos]} if videos else {}),
        )  # fmt: skip
    except Exception as error:  # of processors, which may do anything
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise InvalidArgument(f"the model's processor does not take {name} ({said})") from error
    return made


def _rendered(processor: Any, messages: list[dict[str, Any]], name: str) -> str:
    """The conversation by the processor's template, with contents that are mere text as they were
    given; as parts where it then leaves out some, since many such templates know parts alone."""
    mere = [said for x in messages if isinstance(said := x.get("content"), str)]
    if mere:
        with suppress(InvalidArgument):
            text = rendered(processor, messages, name)
            if all(said.strip() in text for said in mere):
                return text
    in_parts = [
        {**x, "content": [{"type": "text", "text": x["content"]}]}
        if isinstance(x.get("content"), str)
        else x
        for x in messages
    ]
    return rendered(processor, in_parts, name)


def _parts(
    content: Any, name: str, images: list[Any], videos: list[list[Any]]
) -> str | list[dict[str, Any]]:
    """Text, or the parts of a message as templates know them; what they show is added to the
    lists."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidArgument(
            f"the content of {name} is a {type(content).__name__}: give text, or a list of parts"
        )
    made: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        where = f"part {i} of {name}"
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind == "text" and set(part) == {"type", "text"} and isinstance(part["text"], str):
            made.append({"type": "text", "text": part["text"]})
            continue
        value = _source(part, kind, where)
        if kind == "image":
            images.append(image(value, where))
        else:
            videos.append(frames(value, where, FRAMES))
        made.append({"type": kind})
    return made


def _source(part: Any, kind: Any, name: str) -> Any:
    """Where the image or video of a part comes from: a value under its kind, or under "path"."""
    given = {key: part[key] for key in part if key != "type"} if isinstance(part, Mapping) else {}
    if kind not in _KINDS or len(given) != 1 or not set(given) <= {kind, "path", "url"}:
        raise InvalidArgument(
            f"{name} is of type {kind!r} with {', '.join(map(repr, given)) or 'nothing'}: give "
            '{"type": "text", "text": "Hello"}, {"type": "image", "image": path or PIL image}, or '
            '{"type": "video", "video": path or frames}'
        )
    return next(iter(given.values()))
