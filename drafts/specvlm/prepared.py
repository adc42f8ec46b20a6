"""PreparedImages: a checkpoint made ready for one target, with what makes images small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from specdec.drafts.longspec.checkpoint import Checkpoint
from specdec.drafts.longspec.drafter import fitted, load
from specdec.drafts.longspec.prepared import Prepared
from specdec.drafts.specvlm.compressor import BRANCHES, GATE, Compressor, compressor_of
from specdec.drafts.specvlm.image import ImageSizes
from specdec.errors import InvalidArgument, WeightsError
from specdec.model.target import Target

SHIPPED = Path(__file__).parent / "weights" / "specvlm-demo-vision"


@dataclass(frozen=True)
class PreparedImages:
    """A block for its target, and a compressor beside it; is_trained: whether that has learned."""

    parts: Prepared
    compressor: Compressor
    is_trained: bool

    def branch(self, name: str, source: Any) -> str:
        """The branch of an option: "auto" is the gate's choice, or without training `prune`.

        Raises InvalidArgument for one that needs weights which the checkpoint does not have.
        """
        if name == "auto":
            return GATE if self.is_trained else "prune"
        needs = name == GATE or BRANCHES[name].is_trained
        if needs and not self.is_trained:
            raise InvalidArgument(
                f"image_branch={name!r} has to be trained, and draft_model={str(source)!r} was not "
                "trained on images: give one made by `specdec train-drafter --images`, or "
                "image_branch='prune'"
            )
        return name


_prepared: WeakKeyDictionary[PreTrainedModel, dict[Any, PreparedImages]] = WeakKeyDictionary()


def prepared(target: Target, source: Any) -> PreparedImages:
    """The checkpoint `source` (folder or hub id; None: the shipped one), made ready for `target`,
    and kept for as long as its model lives.

    Raises InvalidArgument for another target's checkpoint, and WeightsError for one that cannot be
    read.
    """
    known = _prepared.setdefault(target.model, {})
    key = _key(target, source)
    if key not in known:
        checkpoint = load(target, source, SHIPPED)
        known[key] = prepare(target, checkpoint, str(source or SHIPPED.name))
    return known[key]


def is_prepared(target: Target) -> bool:
    """Whether the shipped checkpoint has been made ready for `target`."""
    return _key(target, None) in _prepared.get(target.model, {})


def _key(target: Target, source: Any) -> tuple[Any, ...]:
    return str(source), target.dtype, target.device


def prepare(target: Target, checkpoint: Checkpoint, name: str) -> PreparedImages:
    """A loaded checkpoint made ready for its target; `name` is what errors call it."""
    parts = fitted(target, checkpoint.block(), checkpoint.ids)
    try:
        made = compressor_of(checkpoint)
    except (RuntimeError, TypeError) as error:
        what = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the image part of {name} does not fit its config: {what}") from error
    is_trained = made is not None
    compressor = Compressor(ImageSizes.of(parts.block.sizes)) if made is None else made
    compressor.requires_grad_(False).eval().to(target.device, target.dtype)
    return PreparedImages(parts, compressor, is_trained)
