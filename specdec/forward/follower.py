"""Follower: keeps statistics of a text's tokens, by the queries that have read all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.observer import SeenPass


@dataclass(frozen=True, eq=False)
class Accepted:
    """Queries `q[H, m, D]` of the last m committed tokens of a text, and their layer's scale."""

    q: Tensor
    scale: float
    softcap: float | None = None


class Follower(Protocol):
    """Is shown every query of the verifying model that the text went through, once."""

    def chunk(self, call: AttentionCall, pass_: SeenPass) -> None:
        """A layer's call of a part of a prompt, whose keys and values are staged."""

    def accepted(self, store: KVStore, sequence: int, layers: Mapping[int, Accepted]) -> None:
        """What a verification pass has added to a text, which is committed; sliding-window layers
        are left out."""


def chunk_of(pass_: SeenPass, b: int) -> tuple[int, int]:
    """Of a pass over a part of a prompt, where sequence b's tokens begin, and how many are its.

    One more token may stand at the end that nobody sees: see `Target.prefill`.
    """
    start, at = pass_.store.length(pass_.sequences[b]), pass_.positions[b]
    return start, int((at == start + torch.arange(len(at), device=at.device)).sum())
