"""Block Transformers that have learned nothing, in folders, for tiny targets."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch

from specdec.drafts.block.checkpoint import save
from specdec.drafts.block.drafter import BlockDrafter
from specdec.drafts.block.model import BlockTransformer
from specdec.drafts.methods.block import BlockOptions

_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
          "max_position_embeddings": 64}  # fmt: skip


def config(vocab_size):
    return {
        "block_length": 4, "prefix": 2, "pad": 0,
        "block_decoder": {**_SIZES, "hidden_size": 32, "vocab_size": vocab_size},
        "token_decoder": {**_SIZES, "hidden_size": 16, "vocab_size": vocab_size},
    }  # fmt: skip


def build(vocab_size, seed=0):
    """A Block Transformer of random weights; PyTorch's generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlockTransformer(**config(vocab_size))
        for p in model.parameters():
            if p.dim() > 1:
                torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@cache
def _folder(vocab_size):
    """Kept by the cache, and gone with the process."""
    where = tempfile.TemporaryDirectory()
    save(build(vocab_size), config(vocab_size), Path(where.name))
    return where


def untrained(target, options):
    """A block drafter for `generate(drafter=)`."""
    folder = _folder(target.vocab_size).name
    return BlockDrafter(target, BlockOptions.given({**options.given, "draft_model": folder}))
