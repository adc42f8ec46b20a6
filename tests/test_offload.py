"""Keys and values on tiers: the text is that of the run that has them all on the device."""

from __future__ import annotations

import hostile
import models
import pytest
import torch

from specdec import Engine
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes

PROMPTS = [[1, 2, 3, 4, 5] * 4, [7], [3, 4] * 16, [9, 8, 7, 9, 8, 7, 9]]
NEW = 24
SMALL = Sizes(window=4, block=3, room=1024, staging_bytes=700)

TIERS = {
    "disk": {"tier": "disk"},
    "host": {"tier": "host"},
    "link": {"tier": "host", "link": 1e9},
    "mixed": {"tier": ["device", "disk"]},
}


def outcome(generations):
    return [(g.token_ids, g.finish_reason, g.text) for g in generations]


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("drafter", ["none", "ngram", hostile.Bushy, "triforce", "quest"])
def test_same_text(tiers, name, drafter):
    engine = Engine(models.build(name), hostile.tokenizer(models.VOCAB))
    kwargs = {"max_new_tokens": NEW}
    want = engine.generate(PROMPTS, drafter="none", **kwargs)
    engine.target.kv_memory = KVMemory(**TIERS[tiers], sizes=SMALL)
    out = engine.generate(PROMPTS, drafter=drafter, **kwargs)
    assert outcome(out) == outcome(want)
    assert engine.target.kv_memory.device.peak > 0
