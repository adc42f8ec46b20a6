"""SavedDocuments: saved prompts, each read alone, that a prompt begins with in any order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from specdec.errors import InvalidArgument
from specdec.model.target import Target
from specdec.offload.saved_prompt import SavedPrompt
from specdec.sampling.prompt import MARK, Prompt


class SavedDocuments:
    """The documents in the order in which the model is to see them, as one text.

    tokens: of all of them together. starts: where each begins there. skipped: how many of its own
    first tokens are left out: of all but the first document the token that begins a text
    (`bos`), if it is there, because a text begins once. Raises InvalidArgument for folders that
    hold no saved prompt, or one of more than token ids.
    """

    def __init__(self, folders: Any, bos: int | None = None) -> None:
        if isinstance(folders, (str, os.PathLike, SavedPrompt)):
            folders = [folders]
        if not isinstance(folders, Sequence) or not folders:
            raise InvalidArgument(
                f"saved_documents={folders!r}: give a list of folders that Engine.save_prompt wrote"
            )
        self.bos = bos
        self.parts = [
            part if isinstance(part, SavedPrompt) else SavedPrompt(part, "saved_documents")
            for part in folders
        ]
        self.tokens: list[int] = []
        self.starts: list[int] = []
        self.skipped: list[int] = []
        for part in self.parts:
            if any(token >= MARK for token in part.tokens):
                raise InvalidArgument(
                    f"saved_documents holds {str(part.folder)!r}, a prompt of more than token ids, "
                    "which cannot be moved: give saved_prompt= to start with it"
                )
            skipped = len(part.tokens) - len(self._joined(part.tokens))
            if skipped == len(part.tokens):
                raise InvalidArgument(f"saved_documents holds {str(part.folder)!r}, which is empty")
            self.starts.append(len(self.tokens))
            self.skipped.append(skipped)
            self.tokens += part.tokens[skipped:]

    def check(self, target: Target) -> None:
        """Raise InvalidArgument, with the difference, unless this model has read all of them."""
        for part in self.parts:
            part.check(target)

    def before(self, question: Prompt) -> Prompt:
        """A prompt of the documents, and a question after them."""
        if not question.is_plain:
            raise InvalidArgument(
                "saved_documents take a question of token ids or text, and this one holds more"
            )
        ids = self._joined(question.ids)
        if not ids:
            raise InvalidArgument("saved_documents need a question after them: give a prompt")
        return Prompt([*self.tokens, *ids])

    def _joined(self, ids: list[int]) -> list[int]:
        """A text as it goes on behind others."""
        return ids[1:] if self.tokens and ids and ids[0] == self.bos else ids
