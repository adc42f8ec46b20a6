"""ForwardPass: what the attention of one model call needs to know, handed through the model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.handles import handle_of
from specdec.forward.layout import Segments, segments_of
from specdec.forward.observer import Observer
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import LayerPlan, Needs
from specdec.forward.static_inputs import PassInputs
from specdec.forward.view_state import ViewState
from specdec.kernels.attention.chunk_attention import ChunkReads
from specdec.kernels.attention.level_attention import Reads

T = TypeVar("T")


class View(Protocol):
    """What a forward pass reads of the store: see `specdec.forward.plan`.

    lossless: whether it reads everything. reads: the most committed tokens that a layer reads;
    None where it reads all. needs: what it has to be shown of the verifying model.
    """

    @property
    def name(self) -> str: ...

    @property
    def lossless(self) -> bool: ...

    @property
    def reads(self) -> int | None: ...

    @property
    def needs(self) -> Needs: ...

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """What a layer reads in a pass over nodes. window: of a sliding-window layer.

        Layers are asked in order; one whose plan has a `select` has run or deferred it before the
        next is asked.
        """

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """Make ready for the next pass to be static, in place; all that its graph depends on
        besides the store's addresses. None where the view needs the host during the pass."""


@dataclass
class PassCache:
    """What is worked out once for all layers of a pass.

    full_reads, chunk_reads: of layers that read everything, by window. tables: of those that read
    less, with their members, by what they read. parts: by class, see `once`. run_made: the last run
    of fused layers that made all its outputs at once. is_looked_at: whether the watch over fused
    layers has been asked.
    """

    segments: list[Segments] | None = None
    full_reads: dict[int | None, Reads] = field(default_factory=dict)
    chunk_reads: dict[int | None, list[ChunkReads]] = field(default_factory=dict)
    tables: dict[Hashable, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict
    )
    parts: dict[type, object] = field(default_factory=dict)
    run_made: object = None
    is_looked_at: bool = False

    def once(self, kind: type[T], make: Callable[[], T]) -> T:
        """The pass's own object of a class, made when the first layer asks for it."""
        known = self.parts.get(kind)
        if known is None:
            known = self.parts[kind] = make()
        assert isinstance(known, kind)
        return known


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A model call over `N` tokens for each of `sequences`, which are staged in `store`.

    positions: `int64[B, N]`, the place of each token in its text.
    staged: slots that earlier calls of this round have staged; this one writes behind them.
    anc: ancestor bitmask `int64[B, N, W]` over all `staged + N` slots; None for a causal chunk,
        which no earlier call of the round may precede.
    staged_positions: `int64[B, staged + N]`, the positions of all slots that `anc` speaks of.
    rounds: for each sequence how often its committed text has grown; state: what the view keeps
        from pass to pass, for as long as the store lives.
    observers: see each layer's call.
    inputs: of a *static* pass, what tells it where it stands, on the device. `sequences` are then
        rows of its batch, and neither they nor `staged` nor the store's lengths may be asked for:
        the pass may be replayed for others (`cuda_graphs`).
    position_ids: what the model rotates its tokens by, `int64[B, N]` or `[D, B, N]`; None where
        that is `positions`, which are places in the text.
    blocks: `int64[N]` of a causal chunk: tokens of one block see each other, whatever their order,
        but those of block -1.
    layers: how many layers the model has that is called; None where it was not said.
    heard: layers whose attention has been asked for, by number.
    handle: names the pass in a compiled model, see `attention_op`.
    """

    store: KVStore
    view: View
    sequences: Sequence[int]
    positions: Tensor
    staged: int = 0
    anc: Tensor | None = None
    staged_positions: Tensor | None = None
    rounds: Sequence[int] = ()
    state: ViewState = field(default_factory=ViewState)
    observers: Sequence[Observer] = ()
    inputs: PassInputs | None = None
    position_ids: Tensor | None = None
    blocks: Tensor | None = None
    layers: int | None = None
    heard: set[int] = field(default_factory=set)
    cache: PassCache = field(default_factory=PassCache, repr=False)
    handle: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "handle", handle_of(self))

    def segments(self, layer: int) -> list[Segments]:
        """Where each sequence stands in the store, made at the first layer that asks, by whose
        bytes reads are counted. Lengths only change between passes."""
        if self.cache.segments is None:
            rounds = self.rounds or [0] * len(self.sequences)
            self.cache.segments = segments_of(self.store, self.sequences, rounds, self.state, layer)
        return self.cache.segments

    @property
    def is_chunk(self) -> bool:
        """Whether it is over a part of a prompt, which reads all before it."""
        return self.anc is None

    @cached_property
    def anc_words(self) -> NDArray[np.uint64]:
        """The ancestor mask as CPU kernels take it."""
        assert self.anc is not None
        return self.anc.cpu().contiguous().numpy().view(np.uint64)

    def on_host(self, layer: int, device: torch.device) -> bool:
        """Whether all keys and values of a layer lie in host memory, where its queries are."""
        return device.type == "cpu" and not self.is_remote(layer, device)

    def is_remote(self, layer: int, device: torch.device) -> bool:
        """Whether some of a layer's keys and values have to be fetched to `device`."""
        return any(level.is_remote(layer, device) for level in self.store.levels)
