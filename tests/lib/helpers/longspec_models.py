"""Blocks of the LongSpec drafter that have learned nothing, for tiny targets."""

from __future__ import annotations

from dataclasses import replace

import torch

from specdec.drafts.longspec.checkpoint import Checkpoint, describe, sizes_for
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.longspec.training.start import new_block
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.compressor import PART, Compressor
from specdec.drafts.specvlm.drafter import SpecVlm
from specdec.drafts.specvlm.image import ImageSizes
from specdec.drafts.specvlm.prepared import prepare

WINDOW = 6  # shorter than the prompts and than a tree is deep


def checkpoint(target, ids=None, window=WINDOW):
    """A checkpoint of a random block for `target`."""
    sizes = sizes_for(target, window=window)
    weights = new_block(target, sizes, seed=0).state_dict()  # nothing in it is silent
    return Checkpoint(sizes, weights, ids, describe(target), {})


def untrained(target, options):
    """A LongSpec drafter that can draft two tokens of three; for `generate(drafter=)`."""
    return LongSpec(
        target,
        LongSpecOptions(
            **{"min_draft_prob": 0.0, **options.given, "draft_model": parts_of(target)}
        ),
    )


def untrained_specvlm(target, options, **given):
    """A SpecVLM drafter on such a block."""
    parts = images(target, _ids(target))
    return SpecVlm(
        target,
        SpecVlmOptions(**{"min_draft_prob": 0.0, **options.given, **given, "draft_model": parts}),
    )


def by(branch):
    """Such a drafter that makes images small by a branch, for `generate(drafter=)`."""

    def made(target, options):
        return untrained_specvlm(target, options, image_branch=branch, image_tokens=3)

    return made


def images(target, ids=None, window=WINDOW):
    """A random block, and a random compressor beside it, whose gate likes some of all branches."""
    made = image_checkpoint(target, ids, window)
    return prepare(target, made, "of this test")


def whole(target, images, verifier):
    """The same block as it reads images without a compressor."""
    parts = images.parts
    return LongSpecModel(target, parts, verifier)


def image_checkpoint(target, ids=None, window=WINDOW):
    """A checkpoint of both."""
    made = checkpoint(target, ids, window)
    torch.manual_seed(1)
    sizes = ImageSizes.of(made.sizes, stride=3)
    compressor = Compressor(sizes)
    for parameter in compressor.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    theirs = {f"{PART}.{name}": x for name, x in compressor.state_dict().items()}
    return replace(made, weights={**made.weights, **theirs}, parts={PART: sizes.as_dict()})


def _ids(target):
    return torch.tensor([token for token in range(target.vocab_size) if token % 3])


def parts_of(target):
    made = checkpoint(target, _ids(target))
    return fitted(target, made.block(), made.ids)
