"""QueryRecorder: queries that pass by anyway, kept for those who select what a draft reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.follower import Accepted, Follower
from specdec.forward.observer import SeenPass

Kind = tuple[float, float | None, int | None]  # scale, softcap and window of a layer


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries `q[H, n, D]` of a text, at the positions `at: int64[n]`."""

    q: Tensor
    at: Tensor

    def then(self, others: Queries) -> Queries:
        """These, and others behind them."""
        return Queries(torch.cat([self.q, others.q], dim=1), torch.cat([self.at, others.at]))

    def last(self, count: int) -> Queries:
        """A copy of the last `count` of them."""
        return Queries(self.q[:, -count:].clone(), self.at[-count:].clone())

    def every(self, stride: int) -> Queries:
        """A copy of those at positions that `stride` divides."""
        mine = self.at % stride == 0
        return Queries(self.q[:, mine], self.at[mine])


@dataclass
class QueryRecorder:
    """The last queries of each prompt, and those of the last verification pass: an `Observer`.

    window: how many queries of a prompt to keep; probe_every: of all its queries, those at every
    so manieth position, too; 0 keeps none. verified: whether to keep those of verification, which
    `followers` need. `prompt` and `probes` are by layer and row of level 0; `accepted(layer,
    sequence)` gives the queries of the nodes that the text went through.
    """

    window: int = 0
    verified: bool = False
    probe_every: int = 0
    followers: Sequence[Follower] = ()
    prompt: dict[tuple[int, int], Queries] = field(default_factory=dict)
    probes: dict[tuple[int, int], Queries] = field(default_factory=dict)
    passes: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    paths: dict[int, list[int]] = field(default_factory=dict)
    kinds: dict[int, Kind] = field(default_factory=dict)

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        """Keep what was asked for of a call's queries."""
        self.kinds[call.layer] = call.scale, call.softcap, call.window
        for b, sequence in enumerate(pass_.sequences):
            if pass_.is_chunk:
                self.note_prompt(call.layer, sequence, Queries(call.q[b], pass_.positions[b]))
            else:
                self.note_pass(call.layer, sequence, call.q[b])
        if pass_.is_chunk and call.window is None:
            for follower in self.followers:
                follower.chunk(call, pass_)

    def note_prompt(self, layer: int, row: int, chunk: Queries) -> None:
        """Queries of a chunk of a prompt: the last `window` of all are kept, and some probes."""
        key = layer, row
        if self.window:
            known = self.prompt.get(key)
            whole = chunk if known is None or len(chunk.at) >= self.window else known.then(chunk)
            self.prompt[key] = whole.last(self.window)
        if self.probe_every:
            known, probes = self.probes.get(key), chunk.every(self.probe_every)
            self.probes[key] = probes if known is None else known.then(probes)

    def note_pass(self, layer: int, sequence: int, q: Tensor) -> None:
        """Queries `q[H, N, D]` of a verification pass, one for each node."""
        if self.verified:
            self.passes[layer, sequence] = q

    def note_path(self, sequence: int, path: list[int], store: KVStore) -> None:
        """The nodes of the last verification pass that the text went through, committed by now."""
        if not self.verified or not path:
            return
        self.paths[sequence] = path
        if self.followers:
            seen = {}
            for (layer, other), q in self.passes.items():
                scale, softcap, window = self.kinds[layer]
                if other == sequence and window is None:
                    seen[layer] = Accepted(q[:, path], scale, softcap)
            for follower in self.followers:
                follower.accepted(store, sequence, seen)

    def accepted(self, layer: int, sequence: int) -> Tensor | None:
        """Queries `[H, m, D]` of the accepted nodes of the last verification, if there was one."""
        q, path = self.passes.get((layer, sequence)), self.paths.get(sequence)
        return None if q is None or path is None else q[:, path]
