"""Tokenizers of GGUF files that took long to build, kept in the cache folder.

A SentencePiece vocabulary does not say its merges: Gemma's 514,000 are found among two million ways
to cut its tokens. Knows nothing about how one is built.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer

from specdec.cachedir import build_folder, cache_root, is_complete
from specdec.errors import WeightsError

log = logging.getLogger("specdec")

LONG = 1.0  # seconds; what is built faster is not kept
_FILE = "tokenizer.json"
_SOURCES = ("merges", "splits", "ties", "tokenizer", "vocab")  # which say what is built


def built_once(fields: Mapping[str, Any], build: Callable[[], Tokenizer]) -> Tokenizer:
    """What `build()` makes of a file's metadata, from the cache if it is there.

    It is known by the keys of the metadata that begin with `tokenizer.ggml.`, the sources that read
    them and the release of tokenizers. A copy that is damaged, or cannot be kept, costs time alone.
    """
    folder = cache_root() / "tokenizers" / _digest(fields)
    if is_complete(folder):
        try:
            return Tokenizer.from_file(str(folder / _FILE))
        except Exception as error:  # tokenizers has no type of its own for it
            log.debug("%s is built again: %s", folder, error)
    start = time.perf_counter()
    tokenizer = build()
    if time.perf_counter() - start > LONG:
        try:
            build_folder(folder, lambda unfinished: tokenizer.save(str(unfinished / _FILE)))
        except WeightsError as error:
            log.debug("the tokenizer will be built again: %s", error)
    return tokenizer


def _digest(fields: Mapping[str, Any]) -> str:
    mine = sorted(
        (key, value) for key, value in fields.items() if key.startswith("tokenizer.ggml.")
    )
    digest = hashlib.sha256(repr((tokenizers.__version__, mine)).encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:32]
