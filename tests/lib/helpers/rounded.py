"""One quantised model whose products are whole numbers, and drafts made of its numbers.

All are made once a process, and who tries drafters on them changes nothing of them.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch

from specdec import Engine
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.drafter import SpecVlm
from specdec.drafts.specvlm.prepared import prepare
from specdec.loading.loader import load
from specdec.model.target import Target

from helpers import hostile, longspec_models, models
from helpers.stored_gguf import VOCAB, write_gguf

FINER = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q5_0", "token_embd.weight": "Q8_0"}


@cache
def _folder():
    """Kept by the cache, and gone with the process."""
    where = tempfile.TemporaryDirectory()
    write_gguf(Path(where.name) / "tiny.gguf", "Q4_K", FINER, context=1024)
    return where


def path():
    """Its file."""
    return Path(_folder().name) / "tiny.gguf"


@cache
def engine():
    """It, with activations in 8 bits, and a tokenizer of single characters."""
    made = Engine(load(path(), device="cpu").model, hostile.tokenizer(VOCAB))
    assert made.packing.activations == "int8" and made.target.keeps_bits
    return made


@cache
def numbers():
    """The same weights as float32, for blocks and drafts that are made of them."""
    return load(path(), dtype="float32", device="cpu").model


@cache
def draft():
    """Nearly the target, in floating point: right often and wrong often."""
    return models.disturbed(numbers(), 0.01)


def block(name="longspec"):
    """A LongSpec or SpecVLM drafter for `generate(drafter=)`, of a block of random weights that
    begins with the file's as numbers."""
    floats = Target(numbers())
    ids = torch.arange(0, floats.vocab_size, 2)

    def drafter(target, options):
        given = {"min_draft_prob": 0.0, **options.given}
        if name.startswith("longspec"):
            parts = fitted(target, longspec_models.checkpoint(floats).block(), ids)
            return LongSpec(target, LongSpecOptions(**{**given, "draft_model": parts}))
        parts = prepare(target, longspec_models.image_checkpoint(floats, ids), "of this test")
        return SpecVlm(target, SpecVlmOptions(**{**given, "draft_model": parts}))

    return drafter
