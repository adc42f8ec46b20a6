"""CodedRead: a part of a sequence's text as a copy gives it back, some tokens as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.forward.attention_call import AttentionCall
from specdec.forward.plan import Partial
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.precision import wide_dtype
from specdec.sparse.codecs.coded_copy import CodedRow


@dataclass(frozen=True, eq=False)
class CodedRead:
    """The first `end` tokens of a level's row, out of `copy`, which covers them.

    start: tokens of the text before the level. sink: so many first tokens of the text, and those
    that `chosen: int64[Hkv, n]` names (-1: none), are read as `high` gives them back, or as the
    store has them where it is None.
    """

    copy: CodedRow
    level: Level
    row: int
    start: int
    end: int
    sink: int = 0
    chosen: Tensor | None = None
    high: CodedRow | None = None

    def read(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Keys and values `[1, Hkv, end, D]`, where the queries are."""
        layer, heads = call.layer, call.k.shape[1]
        k, v = (x[:, : self.end] for x in self.copy.decode(layer, heads, self.start))
        head, token = self._marks(heads).nonzero(as_tuple=True)
        if len(head):
            exact = self._exact(layer, heads)
            for own, better in zip((k, v), exact, strict=True):
                some = better[head.to(better.device), token.to(better.device)]
                own[head.to(own.device), token.to(own.device)] = some.to(own)
        return k[None].to(call.q), v[None].to(call.q)

    def attend(self, call: AttentionCall, members: list[int]) -> Partial:
        """Attention of some sequences of a call over it."""
        q = call.q if len(members) == len(call.q) else call.q[members]
        if not self.num_exact:
            found = self.copy.attend(q, self.end, call.scale, call.softcap)
            if found is not None:
                return found
        k, v = self.read(call)
        end = torch.tensor([self.end], dtype=torch.int32, device=q.device)
        rows = torch.zeros(len(members), dtype=torch.int32)
        return prefix_attention(q, k, v, end, rows, scale=call.scale, softcap=call.softcap)

    def _exact(self, layer: int, heads: int) -> tuple[Tensor, Tensor]:
        """What is better than the copy, `[Hkv, >= end, D]`, wherever it lies."""
        if self.high is not None:
            return self.high.decode(layer, heads, self.start)
        k, v = self.level.k[layer], self.level.v[layer]
        assert k is not None and v is not None
        return k[self.row], v[self.row]

    @property
    def num_exact(self) -> float:
        """Tokens that a head reads as they are, on average."""
        if self.chosen is None:
            return float(self._num_sinks)
        return float(self._marks(len(self.chosen)).sum()) / len(self.chosen)

    def _marks(self, heads: int) -> Tensor:
        """Which tokens are read as they are, `bool[Hkv, end]`."""
        marks = torch.zeros(heads, self.end + 1, dtype=torch.bool)
        if self.chosen is not None:
            inside = (self.chosen >= 0) & (self.chosen < self.end)
            marks.scatter_(1, torch.where(inside, self.chosen, self.end), True)
        marks[:, : self._num_sinks] = True
        return marks[:, : self.end]

    @property
    def _num_sinks(self) -> int:
        return max(min(self.sink - self.start, self.end), 0)


@dataclass(frozen=True, eq=False)
class CodedReads:
    """Attention over one level's copies, for each sequence of a pass; sequences that have the same
    read share it: an `Extra`."""

    reads: Sequence[CodedRead | None]

    def attend(self, call: AttentionCall) -> Partial:
        shape = (*call.q.shape[:3], call.v.shape[-1])
        kind, first = wide_dtype(call.q.dtype), self.reads[0]
        if first is not None and first.end and all(x is first for x in self.reads):
            partial = first.attend(call, list(range(len(call.q))))
            return partial[0].to(kind), partial[1].to(kind)
        o = call.q.new_zeros(shape, dtype=kind)
        lse = o.new_full(shape[:3], -torch.inf)
        for read in {id(x): x for x in self.reads if x is not None and x.end}.values():
            members = [b for b, x in enumerate(self.reads) if x is read]
            o[members], lse[members] = read.attend(call, members)
        return o, lse
