"""MeanValueView: the mean value stands for the mass that a selection leaves out (SparQ, SparF)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.host_reads import note
from specdec.forward.layout import Segments
from specdec.forward.near_pages import near_pages
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import LayerPlan, Partial, RowPlan, Selection
from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.merge import merge
from specdec.sparse.judging import page_logits, read_bytes
from specdec.sparse.policy import Policy
from specdec.sparse.tails.value_mean import ValueMean
from specdec.sparse.text import Text
from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class MeanValueView(SparseView):
    """A `SparseView`, and for what it leaves out the mean value of all it selects from, by the mass
    that its scorer gives to that: see `MeanTail`. Every pass scores the text for its own queries,
    also where a selection stands."""

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """None: masses are made of each pass's queries, on the host."""
        return None

    def _standing(self, pass_: ForwardPass, layer: int, segments: Sequence[Segments]) -> LayerPlan:
        """Selections are read by a `MeanTail`, everything else as it is."""
        plan = super()._standing(pass_, layer, segments)
        rows, tails = [], []
        for x, row in zip(segments, plan.rows or (), strict=True):
            selection, tail = row.selection, None
            if selection is not None and selection.pages is not None and row.count:
                note(row, x, layer)
                tail = MeanTail(self, pass_, x, selection, row.count)
            rows.append(row if tail is None else RowPlan(row.since))
            tails.append(tail)
        return LayerPlan(tuple(rows), [MeanTails(tails)]) if any(tails) else plan


@dataclass(frozen=True, eq=False)
class MeanTail:
    """A sequence's selection, the first `count` pages a head, and the mean value v of the text.

    With s the softmax of the scorer's logits over the text and a = sum of s over what is selected:

        out = a softmax(q K_j / sqrt(d)) V_j + (1 - a) v

    (SparQ, arXiv 2312.04985, algorithm 1; SparF of InstInfer, arXiv 2409.04992.) Beside what came
    since it weighs as much as the text would of which what is selected is a share of a.
    """

    policy: Policy
    pass_: ForwardPass
    x: Segments
    selection: Selection
    count: int

    def attend(self, q: Tensor, call: AttentionCall) -> Partial:
        """The partial for `q[1, H, N, D]`."""
        o, lse = self._selected(q, call)
        share, mean = self._share(q, call).to(lse), self._mean(call).to(o)
        heads, nodes = o.shape[1:3]
        share = share.view(1, heads, nodes)
        mean = mean.repeat_interleave(heads // len(mean), dim=0)[None, :, None]
        return share[..., None] * o + (1 - share[..., None]) * mean, lse - share.log()

    def _selected(self, q: Tensor, call: AttentionCall) -> Partial:
        """Attention over what is selected."""
        found, device = [], q.device
        for i, (at, covered) in enumerate(self.selection.levels):
            level, row, length = self.pass_.store.levels[at], self.x.rows[at], covered
            k, v, pages = level.k[call.layer], level.v[call.layer], self.selection.local[i]
            if level.is_remote(call.layer, device):
                pool, pages = near_pages(level, call.layer, self.x, self.selection, i, device)
                if pool.k is None or pool.v is None:  # nothing is selected here
                    continue
                k, v = (y.flatten(1, 2)[None] for y in (pool.k, pool.v))
                row, length = 0, k.shape[2]
            assert k is not None and v is not None
            found.append(
                gather_attention(
                    q, k, v,
                    torch.from_numpy(pages[None, :, : self.count]).to(device, torch.int32),
                    torch.full((len(k),), length, dtype=torch.int32, device=device),
                    torch.tensor([row], dtype=torch.int32, device=device),
                    page_size=self.selection.page_size, scale=call.scale, softcap=call.softcap,
                )
            )  # fmt: skip
        return merge(found)

    def _share(self, q: Tensor, call: AttentionCall) -> Tensor:
        """a, `[Hkv, G * N]`."""
        text = Text(
            self.pass_.store, self.x.sequence, call.layer, self.selection.covered, q.device,
            call.scale, call.softcap,
        )  # fmt: skip
        logits = page_logits(self.policy, text, q[0])
        self.x.reads.chose(call.layer, read_bytes(self.policy, text))
        assert self.selection.pages is not None
        pages = self.selection.pages[:, : self.count].to(logits.device)
        mass = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)
        mine = mass.gather(2, pages.clamp_min(0)[:, None].expand(-1, mass.shape[1], -1))
        mine = mine.masked_fill((pages < 0)[:, None], 0.0).sum(dim=-1)
        return mine.clamp(torch.finfo(mass.dtype).tiny, 1.0)

    def _mean(self, call: AttentionCall) -> Tensor:
        """v, `[Hkv, Dv]`."""
        totals = []
        for at, covered in self.selection.levels:
            level = self.pass_.store.levels[at]
            row, device = self.x.rows[at], call.q.device
            kept = ValueMean.beside(level)
            totals.append(kept.total(level, call.layer, row, covered, device))
        return torch.stack(totals).sum(dim=0) / sum(n for _, n in self.selection.levels)


@dataclass(frozen=True, eq=False)
class MeanTails:
    """Those of the sequences of a pass: an `Extra`."""

    tails: Sequence[MeanTail | None]

    def attend(self, call: AttentionCall) -> Partial:
        kind = torch.promote_types(call.q.dtype, torch.float32)
        o = call.q.new_zeros(*call.q.shape[:3], call.v.shape[-1], dtype=kind)
        lse = o.new_full(call.q.shape[:3], -torch.inf)
        for b, tail in enumerate(self.tails):
            if tail is not None:
                o[b : b + 1], lse[b : b + 1] = tail.attend(call.q[b : b + 1], call)
        return o, lse
