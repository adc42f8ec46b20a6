"""finding: the calibration that a method asks for: shipped, kept, measured now, or a file's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from specdec.cachedir import build_folder, cache_root
from specdec.errors import InvalidArgument, unknown_name
from specdec.model.target import Target
from specdec.sparse.calibrations.calibration import Calibration, Numbers
from specdec.sparse.calibrations.copying import copying
from specdec.sparse.calibrations.key_change import key_change
from specdec.sparse.calibrations.key_value_bases import KeyValueBases, measure_bases
from specdec.sparse.calibrations.query_entropy import query_entropy
from specdec.sparse.calibrations.query_turns import query_turns
from specdec.sparse.calibrations.retaining_heads import RetainingHeads
from specdec.sparse.calibrations.retaining_training import train
from specdec.sparse.calibrations.semantic_heads import semantic_heads
from specdec.sparse.calibrations.streaming_error import streaming_error
from specdec.sparse.fingerprint import fingerprint

log = logging.getLogger("specdec")

SHIPPED = Path(__file__).parent / "shipped"
Measure = Callable[[Target, Sequence[int]], list[Numbers | None]]

MEASURES: dict[str, Measure] = {
    "razor": lambda target, text: copying(target),
    "duo": streaming_error,
    "compresskv": semantic_heads,
    "uncomp": query_entropy,
    "epicache": key_change,
    "louiskv": query_turns,
}
LEAST = 64  # tokens that something can be measured on
TRAINED = "locret"  # whose calibration is a network
BASES = "cskv"  # whose calibration is a pair of matrices a layer


@dataclass(frozen=True)
class Sample:
    """Tokens to measure on, and what they are in words."""

    tokens: Sequence[int]
    name: str


def sample(target: Target, tokenizer: Any, text: str | None = None, name: str = "") -> Sample:
    """A text as tokens, by default the Python manual; random ones where there is no tokenizer, or
    one that makes nothing of the manual."""
    from pydoc_data.topics import topics  # a megabyte

    words = "\n\n".join(topics.values()) if text is None else text
    ids = [] if tokenizer is None else tokenizer(words)["input_ids"]
    if text is not None and len(ids) < LEAST:
        raise InvalidArgument(f"{name or 'the text'} has {len(ids)} tokens: give {LEAST} or more")
    if len(ids) < LEAST:
        draw = Random(0)
        return Sample([draw.randrange(target.vocab_size) for _ in range(4096)], "random tokens")
    return Sample(ids, name or "the Python manual")


def calibration_of(target: Target, method: str, source: Any, tokenizer: Any = None) -> Calibration:
    """What an option `calibration` stands for.

    source: a calibration; a file; or "auto": the one that comes with the package for this model, or
    that was measured before and kept in the cache folder, or one that is measured now. Raises
    InvalidArgument for a file of another model or method.
    """
    if isinstance(source, Calibration):
        return source
    if source != "auto":
        return Calibration.load(source, method, target)
    return Calibration.load(_auto(target, method, f"{method}.json", tokenizer), method, target)


def retaining_heads_of(target: Target, source: Any, tokenizer: Any = None) -> RetainingHeads:
    """The same for networks that foretell what matters."""
    if isinstance(source, RetainingHeads):
        return source
    if source != "auto":
        return RetainingHeads.load(source, target)
    return RetainingHeads.load(_auto(target, TRAINED, f"{TRAINED}.safetensors", tokenizer), target)


def bases_of(target: Target, source: Any, tokenizer: Any = None) -> KeyValueBases:
    """The same for the directions of keys and values."""
    if isinstance(source, KeyValueBases):
        return source
    if source != "auto":
        return KeyValueBases.load(source, target)
    return KeyValueBases.load(_auto(target, BASES, f"{BASES}.safetensors", tokenizer), target)


def measured(
    target: Target, method: str, text: Sample
) -> Calibration | RetainingHeads | KeyValueBases:
    """What a method wants to know of a model, measured, or trained, on a text."""
    if method == TRAINED:
        return train(target, text.tokens, text.name)
    if method == BASES:
        return measure_bases(target, text.tokens, text.name)
    if method not in MEASURES:
        raise unknown_name("calibrated method", method, [*MEASURES, TRAINED, BASES])
    layers = MEASURES[method](target, text.tokens)
    return Calibration(method, fingerprint(target), text.name, tuple(layers))


def _auto(target: Target, method: str, name: str, tokenizer: Any) -> Path:
    """The file of this model: shipped, kept, or written now."""
    of = fingerprint(target)
    shipped = SHIPPED / of / name
    if shipped.exists():
        return shipped

    def build(folder: Path) -> None:
        log.info("measuring what %s wants to know of this model, once", method)
        measured(target, method, sample(target, tokenizer)).save(folder / name)

    return build_folder(cache_root() / "calibrations" / method / of, build) / name
