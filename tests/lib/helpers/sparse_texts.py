"""Texts for sparse views, and a budget that most of them exceed."""

from __future__ import annotations

import random

from helpers import models

RNG = random.Random(0)
PROMPTS = [[RNG.randrange(models.VOCAB) for _ in range(n)] for n in (70, 33, 5, 48)]
NEW = 14
SMALL = {"budget": 24, "sink": 3, "recent": 4}
