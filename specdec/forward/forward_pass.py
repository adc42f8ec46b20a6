"""ForwardPass: what the attention of one model call needs to know, handed through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_op import ticket_of
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.static_inputs import PassInputs
from specdec.kernels.attention.level_attention import Reads
from specdec.kernels.linear.decoder_run import Choosing


@dataclass(frozen=True)
class AttentionCall:
    """One layer's queries, keys and values, after q/k norm and RoPE, with its model's settings.

    q: `[B, H, N, D]`; k, v: `[B, Hkv, N, D]`. `sinks[H]` are extra logits without a value
    (GPT-OSS); `window` is the number of positions a query sees, its own included.
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    softcap: float | None = None
    window: int | None = None
    sinks: Tensor | None = None


ReadAhead = tuple[Reads, Choosing | None]


class View(Protocol):
    """What a forward pass reads of the store."""

    @property
    def name(self) -> str: ...

    @property
    def lossless(self) -> bool: ...

    def attend(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""

    # A view may also have
    #   reads_ahead(pass_, layers, window) -> Sequence[ReadAhead] | None
    # what `attend` would read of host memory in each of these layers, and choose before: they are
    # then run in one call. None, or no such method: one by one.


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A model call over `N` tokens for each of `sequences`, which are staged in `store`.

    positions: `int64[B, N]`, the absolute position of each token.
    staged: slots that earlier calls of this round have staged; this one writes behind them.
    anc: ancestor bitmask `int64[B, N, W]` over all `staged + N` slots; None for a causal chunk,
        which no earlier call of the round may precede.
    staged_positions: `int64[B, staged + N]`, the positions of all slots that `anc` speaks of.
    rounds: for each sequence how often its committed text has grown; state: what the view keeps
        from pass to pass, for as long as the store lives.
    recorder: keeps queries for others; `records` tells it a verification from a draft.
    plans: what a view works out once for all layers of this pass.
    inputs: of a *placed* pass, what tells it where it stands, on the device. `sequences` are then
        places in its batch, and neither they nor `staged` nor the store's lengths may be asked for:
        the pass may be replayed for others (`graphs`). Views with a `ready` know how.
    layers: how many layers the model has that is called; None where it was not said.
    heard: layers whose attention has been asked for, by number.
    ticket: names the pass in a compiled model, see `attention_op`.
    """

    store: KVStore
    view: View
    sequences: Sequence[int]
    positions: Tensor
    staged: int = 0
    anc: Tensor | None = None
    staged_positions: Tensor | None = None
    rounds: Sequence[int] = ()
    state: dict[Any, Any] = field(default_factory=dict)
    recorder: QueryRecorder | None = None
    records: bool = False
    plans: dict[Any, Any] = field(default_factory=dict)
    inputs: PassInputs | None = None
    layers: int | None = None
    heard: set[int] = field(default_factory=set)
    ticket: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ticket", ticket_of(self))
