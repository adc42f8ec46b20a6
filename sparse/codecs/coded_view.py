"""CodedView: a pass that reads every token, out of a copy that a codec keeps in less."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import WHOLE, LayerPlan, Needs, Partial, RowPlan
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.sparse.codecs.codec import Codec
from specdec.sparse.codecs.coded_copy import CodedCopy, CodedRow
from specdec.sparse.policy import PROMPT_QUERIES


@dataclass(frozen=True, eq=False)
class CodedView:
    """All committed tokens as `codec` gives them back, but for the `recent` last ones, the `sink`
    first ones and an open block.

    groups: by layer, the layers that are encoded with it; those without a group read everything.
    Staged tokens, and those that a drafter's own level holds, are read as they are, and layers with
    a sliding window read their window as it is. The copy stands beside the store, is made of what
    the target committed, and is decoded as often as it is read.
    """

    name: str
    codec: Codec
    groups: Mapping[int, tuple[int, ...]]
    recent: int
    sink: int = 0
    asks_queries: bool = False
    lossless: bool = field(default=False, init=False)

    @property
    def reads(self) -> None:
        return None

    @property
    def needs(self) -> Needs:
        return Needs(PROMPT_QUERIES if self.asks_queries else 0)

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """None: the host says how much of each copy is read."""
        return None

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """The copies of the committed levels, brought up to date, and what came since."""
        group = self.groups.get(layer)
        if window is not None or group is None:
            return WHOLE
        segments = pass_.segments(layer)
        copies = [self._copies(pass_, group, x) for x in segments]
        plans, extras = [], []
        for x, found in zip(segments, copies, strict=True):
            later = len(x.lengths) - x.readable
            plans.append(RowPlan((*(0 if c is None else c.tokens for c in found), *[0] * later)))
            self._note(x, found)
        for at, found in enumerate(zip(*copies, strict=True)):
            if any(copy is not None and copy.tokens for copy in found):
                extras.append(Decoded(self, pass_, tuple(found), at))
        return LayerPlan(tuple(plans), extras)

    def _copies(
        self, pass_: ForwardPass, group: tuple[int, ...], x: Segments
    ) -> list[CodedRow | None]:
        """A sequence's copy in each readable level, brought up to date."""
        found: list[CodedRow | None] = []
        known, queries = None, self._queries(pass_, group, x)
        for at in range(x.readable):
            level, start = pass_.store.levels[at], sum(x.lengths[:at])
            if level.k[group[0]] is None:
                found.append(None)
                continue
            copy = CodedCopy.of(level, self.name, self.codec, group).row(x.rows[at])
            copy.update(level, x.rows[at], self.recent, start, queries, known)
            known = known if copy.learned is None else copy.learned
            found.append(copy)
        return found

    def _queries(self, pass_: ForwardPass, group: tuple[int, ...], x: Segments) -> Tensor | None:
        if not self.asks_queries:
            return None
        assert pass_.state.queries is not None
        prompt = pass_.state.queries.prompt
        return torch.cat([prompt[layer, x.rows[0]].q for layer in group])

    def _note(self, x: Segments, found: Sequence[CodedRow | None]) -> None:
        """Count what a layer reads of a sequence: covered tokens by their share of the copy."""
        size = x.total * x.token_bytes
        for copy in found:
            if copy is not None and copy.tokens:
                exact = min(self.sink, copy.tokens)
                size -= (copy.tokens - exact) * x.token_bytes
                size += round(copy.nbytes / len(copy.layers))
        x.reads.note(x.total, size)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Attention over what copies of one level cover, for each sequence of a pass: an `Extra`."""

    view: CodedView
    pass_: ForwardPass
    copies: tuple[CodedRow | None, ...]
    at: int

    def attend(self, call: AttentionCall) -> Partial:
        """Sequences that share a copy read it together."""
        segments = self.pass_.segments(call.layer)
        parts: list[Partial | None] = [None] * len(segments)
        for copy in {id(x): x for x in self.copies if x is not None and x.tokens}.values():
            members = [b for b, x in enumerate(self.copies) if x is copy]
            k, v = self._read(copy, segments[members[0]], call)
            o, lse = prefix_attention(
                call.q[members], k, v,
                torch.tensor([copy.tokens], dtype=torch.int32, device=call.q.device),
                torch.zeros(len(members), dtype=torch.int32),
                scale=call.scale, softcap=call.softcap,
            )  # fmt: skip
            for i, b in enumerate(members):
                parts[b] = o[i : i + 1], lse[i : i + 1]
        nothing = call.q[:1].new_zeros(*call.q.shape[1:3], call.v.shape[-1])[None].float()
        empty = nothing, nothing[..., 0] - torch.inf
        found = [empty if part is None else part for part in parts]
        o, lse = (
            torch.cat([x.to(call.q.device) for x in each]) for each in zip(*found, strict=True)
        )
        return o, lse

    def _read(self, copy: CodedRow, x: Segments, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Keys and values `[1, Hkv, tokens, D]`, the sinks as they are."""
        level, start = self.pass_.store.levels[self.at], sum(x.lengths[: self.at])
        k, v = copy.decode(call.layer, call.k.shape[1], start)
        exact = max(min(self.view.sink - start, copy.tokens), 0)
        for own, held in ((k, level.k[call.layer]), (v, level.v[call.layer])):
            assert held is not None
            own[:, :exact] = held[x.rows[self.at], :, :exact]
        return k[None].to(call.q), v[None].to(call.q)
