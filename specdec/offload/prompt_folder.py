"""PromptFolder: the files of a saved prompt, replaced as a whole, and nothing else touched.

A folder that was written is swapped in by two renames: the old one steps aside under a name that
tells whose it was, then the new one takes its place. Whoever finds the place empty, because a
process ended in between, puts the old one back.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from specdec.cachedir import sha256_of
from specdec.errors import InvalidArgument, OutOfMemory, WeightsError

KIND, FORMAT = "specdec saved prompt", 2
_NOTE = "prompt.json"
_FIELDS = {"tokens": list, "model": dict, "files": dict}
_ROOM = 1 << 20  # beside keys and values: the note, and what file systems want


class PromptFolder:
    """A folder with prompt.json and one safetensors file a layer."""

    def __init__(self, folder: str | Path) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not str(folder):
            raise InvalidArgument(f"a saved prompt's folder is {folder!r}: give a path")
        self.folder = Path(folder).expanduser()
        self._home = self.folder.resolve()  # of a link: the folder that it leads to

    def read(self, argument: str) -> dict[str, Any]:
        """What prompt.json says: tokens, model, and the sha256 of each file.

        Raises InvalidArgument, naming `argument`, if there is none or it is not ours, and
        WeightsError if it is damaged.
        """
        self._recover()
        path = self._home / _NOTE
        named = f"{argument}={str(self.folder)!r}"
        try:
            document = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InvalidArgument(
                f"{named} holds no prompt.json: make one with Engine.save_prompt, or `specdec "
                "generate --saved-prompt`"
            ) from None
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
        if not _is_note(document):
            raise InvalidArgument(f"{named} holds a prompt.json that is no saved prompt of ours")
        if document["format"] != FORMAT:
            raise InvalidArgument(
                f"{named} is of format {document['format']}, and this release reads {FORMAT}: save "
                "it again"
            )
        digest = document.pop("digest", None)
        is_whole = all(type(document.get(name)) is kind for name, kind in _FIELDS.items())
        if not is_whole or digest != _digest(document):
            raise WeightsError(f"{path} is not what was written: save the prompt again")
        return dict(document)

    def check_ours(self) -> None:
        """Raise InvalidArgument unless nothing would be lost with the folder but a saved prompt."""
        self._recover()
        if not self._home.exists():
            return
        if not self._home.is_dir():
            raise InvalidArgument(f"save_prompt: {self.folder} is a file; give a new folder")
        names = self._names(self._home)
        foreign = sorted(path.name for path in self._home.iterdir() if not _is_file(path, names))
        if foreign and _NOTE not in names:
            raise InvalidArgument(
                f"save_prompt: {self.folder} exists and holds no saved prompt; give a new folder"
            )
        if foreign:
            raise InvalidArgument(
                f"save_prompt: {self.folder} holds {', '.join(foreign[:3])} beside a saved prompt; "
                "move it away, or give a new folder"
            )

    @contextmanager
    def replacing(self, nbytes: int) -> Iterator[Path]:
        """A folder to write about `nbytes` to, which takes this one's place when the block ends,
        and is removed if that raises.

        Raises InvalidArgument, at the start, for a folder of others or one that cannot be written,
        and OutOfMemory where there is no room.
        """
        self.check_ours()
        unfinished = self._aside("new")
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise InvalidArgument(
                f"save_prompt: {self.folder} cannot be written ({error.strerror}): give another "
                "folder"
            ) from error
        try:
            free = shutil.disk_usage(unfinished).free
            if nbytes + _ROOM > free:
                raise OutOfMemory(
                    f"save_prompt: {self.folder} takes {nbytes:,} bytes, and {free:,} are free "
                    "there: free some, or give another folder"
                )
            yield unfinished
            self.check_ours()  # it may have taken long
            self._swap(unfinished)
        except SafetensorError as error:
            raise OSError(f"save_prompt: {self.folder} cannot be written: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _swap(self, unfinished: Path) -> None:
        old = self._aside("old")
        try:
            with suppress(FileNotFoundError):
                self._home.rename(old)
            unfinished.rename(self._home)
        finally:
            self._recover()
        self._remove(old)

    def _recover(self) -> None:
        """Put back what a swap that was cut short has left aside."""
        if self._home.exists():
            return
        for old in self._home.parent.glob(f".{glob.escape(self._home.name)}.*.old"):
            if self._names(old):
                old.rename(self._home)
                return

    def _aside(self, kind: str) -> Path:
        return self._home.with_name(f".{self._home.name}.{uuid.uuid4().hex[:8]}.{kind}")

    @staticmethod
    def _names(folder: Path) -> set[str]:
        """The files of a folder that its own prompt.json says we wrote; none if it is not ours."""
        try:
            document = json.loads((folder / _NOTE).read_text("utf-8"))
        except (OSError, ValueError):
            return set()
        if not _is_note(document):
            return set()
        layers = document["model"].get("layers", 0) if document["format"] == 1 else 0
        return {_NOTE, *document.get("files", {}), *map(layer_name, range(layers))}

    def _remove(self, folder: Path) -> None:
        """Remove what we wrote into a folder, and the folder if that was all."""
        names = self._names(folder)
        with suppress(OSError):
            for path in folder.iterdir():
                if _is_file(path, names):
                    path.unlink()
            folder.rmdir()


def write_note(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the note of a folder whose other files have been written."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    document = {"kind": KIND, "format": FORMAT, **about, "files": files}
    document["digest"] = _digest(document)
    (folder / _NOTE).write_text(json.dumps(document), "utf-8")


def layer_name(layer: int) -> str:
    """The file of a layer."""
    return f"layer-{layer:05d}.safetensors"


def _is_note(document: Any) -> bool:
    """Whether a prompt.json is one of ours, of this release or an earlier one."""
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        return False
    if document.get("format") == 1:
        return document.keys() == {"format", "model", "tokens"} and "logits" in document["model"]
    return document.get("kind") == KIND and isinstance(document.get("files"), dict)


def _is_file(path: Path, names: set[str]) -> bool:
    return path.name in names and path.is_file() and not path.is_symlink()


def _digest(document: Mapping[str, Any]) -> str:
    known = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
