"""QueryRecorder: queries that pass by anyway, kept for those who select what a draft reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.follower import Accepted, Follower
from specdec.forward.observer import SeenPass
from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import PromptQueries, Queries

Kind = tuple[float, float | None, int | None]  # scale, softcap and window of a layer


@dataclass
class QueryRecorder:
    """The queries of prompts, and those of the last verification pass: an `Observer`.

    window: how many of a prompt's last queries to keep; probe_every: of all its queries, those at
    every so manieth position, too; both go to `PromptQueries` of the store. verified: whether to
    keep those of verification, which `followers` need; `accepted(layer, sequence)` gives those of
    the nodes that the text went through.
    """

    window: int = 0
    verified: bool = False
    probe_every: int = 0
    followers: Sequence[Follower] = ()
    passes: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    paths: dict[int, list[int]] = field(default_factory=dict)
    kinds: dict[int, Kind] = field(default_factory=dict)

    @classmethod
    def of(cls, needs: Needs) -> QueryRecorder | None:
        """One that keeps the queries that are asked for, if any are."""
        verified = needs.verified or bool(needs.followers)
        if not needs.prompt_queries and not verified and not needs.probe_every:
            return None
        return cls(needs.prompt_queries, verified, needs.probe_every, needs.followers)

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        """Keep what was asked for of a call's queries."""
        self.kinds[call.layer] = call.scale, call.softcap, call.window
        if not pass_.is_chunk:
            for b, sequence in enumerate(pass_.sequences):
                self.note_pass(call.layer, sequence, call.q[b])
        elif call.window is None:
            kept = PromptQueries.of(pass_.store)
            for b, sequence in enumerate(pass_.sequences):
                chunk = Queries(call.q[b], pass_.positions[b])
                kept.note(sequence, call.layer, chunk, self.window, self.probe_every)
            for follower in self.followers:
                follower.chunk(call, pass_)

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

    def forget(self, sequence: int) -> None:
        """Nothing is left of a sequence whose slot is released."""
        self.passes = {key: q for key, q in self.passes.items() if key[1] != sequence}
        self.paths.pop(sequence, None)

    def accepted(self, layer: int, sequence: int) -> Tensor | None:
        """Queries `[H, m, D]` of the accepted nodes of the last verification, if there was one."""
        q, path = self.passes.get((layer, sequence)), self.paths.get(sequence)
        return None if q is None or path is None else q[:, path]
