"""Conversation: turns of a chat, of which each reads only what is new."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

from specdec.cache.kept_text import KeptText
from specdec.decoding.output import Generation, Step
from specdec.decoding.stream import GenerationStream
from specdec.errors import InvalidArgument


class Speaker(Protocol):
    """Who answers: an `Engine`."""

    def turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        kept: KeptText | None,
        keep: Callable[[KeptText], None],
    ) -> GenerationStream:
        """The answer to messages, of which `kept` has been read; `keep` is given what has been
        read in the end."""


class Conversation:
    """Messages to and from a model, as its chat template writes them.

    The keys and values of what has been said stay in memory between two turns, so a turn reads what
    is new. The text is that of `engine.generate(messages)`, token for token. Where KV lies on disk,
    or a lossy view reads, all is read again.

    system: the first message, of role system. settings: of every turn, as for `Engine.generate`; a
    turn may give others.
    """

    def __init__(self, engine: Speaker, system: str | None = None, **settings: Any) -> None:
        self.engine, self.settings = engine, settings
        self.messages: list[dict[str, Any]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self.last: Generation | None = None
        self._kept: KeptText | None = None

    def send(self, content: str | Sequence[Mapping[str, Any]], **settings: Any) -> Generation:
        """The model's answer to a message of the user, which both join the messages.

        content: a text, or parts, as in chat messages for models that take images.
        """
        for _ in self.stream(content, **settings):
            pass
        assert self.last is not None
        return self.last

    def stream(
        self, content: str | Sequence[Mapping[str, Any]], **settings: Any
    ) -> Generator[Step, None, None]:
        """As `send`, step by step; `last` is the answer after the last one.

        Who leaves early leaves the messages as they were. Raises InvalidArgument as `generate`.
        """
        together = {**self.settings, **settings}
        if together.get("num_return_sequences", 1) != 1 or together.get("n", 1) != 1:
            raise InvalidArgument("a turn of a conversation has one answer: leave n out")
        messages = [*self.messages, {"role": "user", "content": content}]
        kept: list[KeptText] = []
        with self.engine.turn(messages, together, self._kept, kept.append) as stream:
            yield from stream
        (self.last,) = stream.generations
        self._kept = kept[0] if kept else None
        self.messages = [*messages, {"role": "assistant", "content": self.last.text}]

    def clear(self) -> None:
        """Forget all but the system's message."""
        self.messages = [m for m in self.messages[:1] if m["role"] == "system"]
        self.last, self._kept = None, None
