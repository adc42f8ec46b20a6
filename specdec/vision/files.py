"""Images and video frames from files, as PIL images."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from specdec.errors import InvalidArgument

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)  # no drive of one letter
_ANIMATED = {".gif", ".webp", ".apng", ".png"}  # moving images that PIL reads by itself


def image(given: Any, name: str) -> Any:
    """A PIL image or an array as it is, or the image in a file; `name` is what errors call it.

    Raises InvalidArgument for what is no image, cannot be read, or is too large to be one.
    """
    if isinstance(given, (np.ndarray, torch.Tensor)):
        if given.ndim != 3 or not all(given.shape) or not {1, 3, 4} & {*given.shape}:
            raise InvalidArgument(
                f"{name} is an array of shape {tuple(given.shape)}: give [height, width, 3] or "
                "[3, height, width]"
            )
        return given
    if not isinstance(given, (str, os.PathLike)):
        if hasattr(given, "convert") and hasattr(given, "size"):
            return given
        raise InvalidArgument(
            f"{name} is a {type(given).__name__}: give a PIL image, an array, or the path of a file"
        )
    if _ADDRESS.match(str(given)):
        raise InvalidArgument(
            f"{name} is an address, and nothing is fetched here: give the path of a file, or a "
            "PIL image"
        )
    from PIL import Image

    try:
        with Image.open(Path(given).expanduser()) as opened:
            opened.load()
            return opened.convert("RGB")
    except Image.DecompressionBombError as error:
        raise InvalidArgument(f"{name}: {given} is too large ({error}): scale it down") from error
    except FileNotFoundError as error:
        raise InvalidArgument(f"{name}: there is no file {given}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidArgument(f"{name}: {given} cannot be read as an image ({error})") from error


def frames(given: Any, name: str, count: int) -> list[Any]:
    """The frames of a video: those of a sequence as they are, or `count` of a file's, evenly spaced
    from its first to its last.

    Moving images (GIF, WebP, APNG) need nothing; videos need PyAV
    (`pip install specdec-engine[video]`).
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [image(one, f"frame {i} of {name}") for i, one in enumerate(given)]
    if not isinstance(given, (str, os.PathLike)):
        raise InvalidArgument(
            f"{name} is a {type(given).__name__}: give its frames as a list, or a path"
        )
    path = Path(given).expanduser()
    if not path.is_file():
        raise InvalidArgument(f"{name}: there is no file {path}")
    return (
        _animated(path, name, count)
        if path.suffix.lower() in _ANIMATED
        else _video(path, name, count)
    )


def _animated(path: Path, name: str, count: int) -> list[Any]:
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as opened:
            every = [frame.convert("RGB") for frame in ImageSequence.Iterator(opened)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"{name}: {path} cannot be read as frames ({error})") from error
    return [every[i] for i in _spread(len(every), count)]


def _video(path: Path, name: str, count: int) -> list[Any]:
    if find_spec("av") is None:
        raise InvalidArgument(
            f"{name}: {path} needs PyAV to be read: run `pip install specdec-engine[video]`, or "
            "give its frames as images"
        )
    av: Any = import_module("av")

    try:
        with av.open(str(path)) as opened:
            total = sum(1 for _ in opened.decode(video=0))
        with av.open(str(path)) as opened:
            wanted = set(_spread(total, count))
            decoded = enumerate(opened.decode(video=0))
            return [frame.to_image() for i, frame in decoded if i in wanted]
    except (OSError, ValueError, IndexError) as error:  # PyAV's own are of these
        raise InvalidArgument(f"{name}: {path} cannot be read as a video ({error})") from error


def _spread(total: int, count: int) -> list[int]:
    """`count` places of `total`, evenly spaced, the first and the last among them."""
    if total <= count:
        return list(range(total))
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]
