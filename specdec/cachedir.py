"""The cache folder, and folders in it that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs
from safetensors import SafetensorError

from specdec.errors import SpecdecError, WeightsError

_MANIFEST = "specdec-manifest.json"
_UNFINISHED = ".unfinished-"
_STALE_SECONDS = 24 * 3600


def cache_root() -> Path:
    """The folder of everything we download or convert: $SPECDEC_CACHE, or the user's cache."""
    override = os.environ.get("SPECDEC_CACHE")
    if override:
        return Path(override).expanduser()
    return platformdirs.user_cache_path("specdec")


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder of the cache and those above it; raises WeightsError where that is denied."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def check_room(folder: Path, needed: int) -> None:
    """Raise WeightsError unless the disk of a folder has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WeightsError(
            f"{folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed: set "
            "SPECDEC_CACHE to a folder with room, or see `specdec cache`"
        )


def is_complete(folder: Path) -> bool:
    """Whether `build_folder` finished this folder and no file was cut or lost since."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text("utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def build_folder(folder: Path, build: Callable[[Path], None], **about: str) -> Path:
    """`folder`, complete: as it stands, or filled by `build(unfinished_folder)` and then renamed.

    An exception in `build`, an interrupt included, leaves nothing behind. Of two processes that
    build the same folder, the first to finish wins and both get its folder. `about` is written
    into the manifest. Raises WeightsError where nothing can be written.
    """
    if is_complete(folder):
        return folder
    make_folder(folder.parent)
    _remove_stale(folder.parent)
    # A sibling, not the system's temporary folder: a rename is atomic within one file system only.
    unfinished = folder.parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        unfinished.mkdir()
        build(unfinished)
        sizes = {
            path.relative_to(unfinished).as_posix(): path.stat().st_size
            for path in unfinished.rglob("*")
            if path.is_file()
        }
        manifest = json.dumps({"sizes": sizes, **about}, indent=2)
        (unfinished / _MANIFEST).write_text(manifest, "utf-8")
        _move_into_place(unfinished, folder)
    except SpecdecError:
        raise
    except (OSError, SafetensorError) as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def unwritable(folder: Path, error: Exception) -> WeightsError:
    """The error for a folder of the cache that nothing can be written to."""
    return WeightsError(
        f"{folder} cannot be written ({error}): set SPECDEC_CACHE to a folder with room for it"
    )


def _move_into_place(unfinished: Path, folder: Path) -> None:
    try:
        os.replace(unfinished, folder)
    except OSError:
        if is_complete(folder):
            return  # another process was first
        # A damaged folder of that name: out of the way, in one step too.
        os.replace(folder, folder.parent / f"{_UNFINISHED}{uuid.uuid4().hex}")
        os.replace(unfinished, folder)


def _remove_stale(parent: Path) -> None:
    """Remove what killed processes left behind: a day is longer than any build takes."""
    for path in parent.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
