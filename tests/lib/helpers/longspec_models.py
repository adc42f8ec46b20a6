"""Blocks of the LongSpec drafter that have learned nothing, for tiny targets."""

from __future__ import annotations

import torch

from specdec.drafts.longspec.checkpoint import Checkpoint, describe, sizes_for
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.longspec.training.start import new_block
from specdec.drafts.methods.longspec import LongSpecOptions

WINDOW = 6  # shorter than the prompts and than a tree is deep


def checkpoint(target, ids=None, window=WINDOW):
    """A checkpoint of a random block for `target`."""
    sizes = sizes_for(target, window=window)
    weights = new_block(target, sizes, seed=0).state_dict()  # nothing in it is silent
    return Checkpoint(sizes, weights, ids, describe(target), {})


def untrained(target, options):
    """A LongSpec drafter that can draft two tokens of three; for `generate(drafter=)`."""
    ids = torch.tensor([token for token in range(target.vocab_size) if token % 3])
    made = checkpoint(target, ids)
    parts = fitted(target, made.block(), made.ids)
    return LongSpec(target, LongSpecOptions(**{**options.given, "draft_model": parts}))
