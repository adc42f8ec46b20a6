"""Tiny engines with tiers too small for their prompts."""

from __future__ import annotations

from specdec import Engine
from specdec.offload.split import Sizes

from helpers import hostile, models

PROMPTS = [[1, 2, 3, 4, 5] * 4, [7], [3, 4] * 16, [9, 8, 7, 9, 8, 7, 9]]
NEW = 24
SMALL = Sizes(window=4, block=3, room=1024, staging_bytes=700)
TIERS = {
    "disk": {"tier": "disk"},
    "host": {"tier": "host"},
    "link": {"tier": "host", "link": 1e9},
    "mixed": {"tier": ["device", "disk"]},
}


def engine_of(name="llama", **kwargs):
    return Engine(models.build(name), hostile.tokenizer(models.VOCAB), **kwargs)
