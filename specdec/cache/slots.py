"""Slots: how many texts a store is made for at a time, and of which length."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slots:
    """Places of a store for texts that come and go.

    count: of texts at a time. tokens: for which each has room, prompt and new ones; 0 where the
    texts that come first say so. shares: whether what several of these begin with is kept once, the
    prompt of several samples among it.
    """

    count: int
    tokens: int = 0
    shares: bool = True
