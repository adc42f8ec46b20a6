"""Blocks of the LongSpec drafter that have learned nothing, for tiny targets."""

from __future__ import annotations

import torch

from specdec.drafts.longspec.checkpoint import Checkpoint, describe, sizes_for
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.longspec.training.start import new_block
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.drafter import SpecVlm

WINDOW = 6  # shorter than the prompts and than a tree is deep


def checkpoint(target, ids=None, window=WINDOW):
    """A checkpoint of a random block for `target`."""
    sizes = sizes_for(target, window=window)
    weights = new_block(target, sizes, seed=0).state_dict()  # nothing in it is silent
    return Checkpoint(sizes, weights, ids, describe(target), {})


def untrained(target, options):
    """A LongSpec drafter that can draft two tokens of three; for `generate(drafter=)`."""
    return LongSpec(target, LongSpecOptions(**{**options.given, "draft_model": _parts(target)}))


def untrained_specvlm(target, options, **given):
    """A SpecVLM drafter on such a block."""
    parts = _parts(target)
    return SpecVlm(target, SpecVlmOptions(**{**options.given, **given, "draft_model": parts}))


def _parts(target):
    ids = torch.tensor([token for token in range(target.vocab_size) if token % 3])
    made = checkpoint(target, ids)
    return fitted(target, made.block(), made.ids)
