"""KeptLessons: lessons by number, made when they are asked for and kept in a folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from specdec.drafts.longspec.checkpoint import describe
from specdec.drafts.longspec.training.teacher import Texts
from specdec.errors import InvalidArgument
from specdec.files import replacing
from specdec.model.target import Target

KIND = "specdec lesson"

L = TypeVar("L", bound=Texts)


class KeptLessons(Generic[L]):
    """Lesson i is the same in every run with the same `settings`; folder: None to keep none."""

    def __init__(self, target: Target, kind: type[L], folder: Path | None) -> None:
        self.target, self.kind, self.folder = target, kind, folder
        self._ours: set[int] = set()

    @property
    def settings(self) -> tuple[object, ...]:
        """What decides the lessons, but for the files that are read."""
        raise NotImplementedError

    def make(self, number: int) -> L:
        """Let the teacher work."""
        raise NotImplementedError

    def __call__(self, number: int) -> L:
        """Lesson `number`, from the folder if it is there."""
        if self.folder is None:
            return self.make(number)
        path = self.folder / f"{number:05d}.safetensors"
        lesson = self._kept(path)
        if lesson is None:
            lesson = self.make(number)
            with replacing(path) as unfinished:
                tensors = {k: v.contiguous() for k, v in vars(lesson).items()}
                save_file(tensors, unfinished, {"kind": KIND, "about": self._about})
        self._ours.add(number)
        return lesson

    def _kept(self, path: Path) -> L | None:
        """The lesson in a file; None if there is none, or one of other settings or another target.

        Raises InvalidArgument for a file that is no lesson.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") == KIND and metadata.get("about") != self._about:
                    return None
                if metadata.get("kind") == KIND:
                    names = [field.name for field in fields(self.kind)]
                    return self.kind(**{name: file.get_tensor(name) for name in names})
        except (OSError, SafetensorError) as error:
            raise InvalidArgument(f"{path} cannot be read ({error}): remove it") from error
        raise InvalidArgument(
            f"{path} is no lesson of this release: give another --out, or remove that folder"
        )

    @cached_property
    def _about(self) -> str:
        about = *self.settings, describe(self.target)
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def forget(self, number: int) -> None:
        """Remove a lesson that this run has read or written from the folder."""
        if self.folder is not None and number in self._ours:
            (self.folder / f"{number:05d}.safetensors").unlink(missing_ok=True)
