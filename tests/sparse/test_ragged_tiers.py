"""Heads that read different numbers of tokens, out of slower memory."""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest
import torch

from specdec import Engine
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes

from helpers import hostile, models
from helpers.methods import logits_of_passes

RNG = random.Random(0)
PROMPTS = [[RNG.randrange(models.VOCAB) for _ in range(n)] for n in (110, 95)]
SIZES = Sizes(window=4, block=16, room=1024, staging_bytes=1 << 13)


@pytest.mark.parametrize("view", ["snapkv", "ada-snapkv", "uncomp"])
def test_they_read_what_they_read_on_the_device(view):
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    found = []
    for tier in ("device", "disk"):
        memory = KVMemory(tier, sizes=SIZES)
        with patch.object(engine.target, "kv_memory", memory), logits_of_passes() as seen:
            engine.generate(
                PROMPTS, view=view, drafter="none", budget=24, sink=2, recent=3, max_new_tokens=6,
                eos_token_id=[],
            )  # fmt: skip
        found.append(seen)
    for there, here in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
