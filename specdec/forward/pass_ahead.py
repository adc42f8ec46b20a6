"""PassAhead: what a view is told of a pass over nodes while the host may still be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specdec.cache.store import KVStore
from specdec.forward.view_state import ViewState


@dataclass(frozen=True)
class PassAhead:
    """The next pass of a model, over nodes of `sequences` in `store`.

    rounds, state: as `ForwardPass` has them. layers: those of the model that read more than a
    window.
    """

    store: KVStore
    sequences: Sequence[int]
    rounds: Sequence[int]
    state: ViewState
    layers: Sequence[int]
    device: torch.device
