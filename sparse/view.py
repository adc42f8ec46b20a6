"""SparseView: a pass that reads the pages that matter, and nothing else of a long context."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.drafter import Wants
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.forward_pass import AttentionCall, ForwardPass
from specdec.kernels.merge import merge
from specdec.kernels.softmax import partial_softmax
from specdec.sparse.page_index import PageIndex, gather
from specdec.sparse.scorer import Scorer, importance
from specdec.sparse.sharing import Sharing
from specdec.target import Target
from specdec.view import FullView, sink_partial

QUERIES = ("draft", "verified", "prompt")
PROMPT_QUERIES = 32  # of the prompt's end, that vote for it (SnapKV) or calibrate labels
REFRESH = ("pass", "round", "falling", "prompt")


@dataclass(frozen=True)
class SparseView:
    """Any scorer with any sharing plan.

    budget: tokens that a layer reads of the committed text, the `sink` first and `recent` last ones
        and the open page included. A text that is not longer is read whole.
    queries: whose queries choose: the draft's own, those of the last verification, the prompt's.
    refresh: when to choose anew: every "pass", every speculation "round", when acceptance is
        "falling", or once per "prompt"; a number means every so many rounds.
    votes, pool: see `scorer.importance`.

    Tokens committed since the last choice, the open page and staged tokens are always read. Layers
    with a sliding window read their window. Selections live in the pass's `state`, so one view can
    serve any number of generations.
    """

    name: str
    scorer: Scorer
    sharing: Sharing = field(default_factory=Sharing)
    budget: int = 512
    sink: int = 16
    recent: int = 64
    queries: str = "draft"
    refresh: str | int = "round"
    votes: str = "max"
    pool: int = 1
    lossless: bool = False

    def __post_init__(self) -> None:
        least = self.sink + self.recent + self.scorer.page_size
        if self.budget < least:
            raise InvalidArgument(
                f"budget={self.budget} is below sink + recent + one page = {self.sink} + "
                f"{self.recent} + {self.scorer.page_size}: give at least {least}"
            )
        if self.queries not in QUERIES:
            raise InvalidArgument(f"queries={self.queries!r} is unknown: give {QUERIES}")
        if self.refresh not in REFRESH and not (
            isinstance(self.refresh, int) and self.refresh >= 1
        ):
            raise InvalidArgument(f"refresh={self.refresh!r}: give {REFRESH} or a number of rounds")

    @property
    def wants(self) -> Wants:
        """The queries that this view needs from the verifying model."""
        labels = self.scorer.name == "label-channels"
        prompt = PROMPT_QUERIES if self.queries != "draft" or labels else 0
        return Wants(prompt, self.queries == "verified")

    def check(self, target: Target) -> None:
        """Raise unless this view can serve the model."""
        self.sharing.check(target.layer_types)
        if all(kind == "sliding_attention" for kind in target.layer_types):
            raise UnsupportedModel(
                f"view {self.name!r} has nothing to leave out: every layer of this model reads a "
                "sliding window already"
            )

    def attend(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
        dense = call.window is not None or self.sharing.anchor_of(call.layer) is None
        if pass_.anc is None or dense:
            return FullView().attend(pass_, call)
        pass_.store.stage(call.layer, pass_.sequences, call.k, call.v, pass_.staged)
        partials = [FullView().staged(pass_, call)]
        if call.sinks is not None:
            partials.append(sink_partial(call))
        rows = [merge(self._committed(pass_, call, b)) for b in range(len(pass_.sequences))]
        partials.append((torch.cat([o for o, _ in rows]), torch.cat([lse for _, lse in rows])))
        return merge(partials)[0].to(call.q.dtype)

    def _committed(
        self, pass_: ForwardPass, call: AttentionCall, b: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Partials of one sequence over what it reads of the committed text."""
        store, sequence = pass_.store, pass_.sequences[b]
        choice = self._choice(pass_, call, b)
        readable = len(store.levels) - (1 if store.num_shared else 0)
        reads_all = choice is None or self.sharing.reads_all(call.layer)
        partials = []
        if choice is not None and not reads_all:
            partials.append(_attend(call, b, *self._gathered(pass_, call, b, choice)))
        for place, (level, rows) in enumerate(zip(store.levels, store.row_maps, strict=True)):
            row = int(rows[sequence])
            start, end = 0, int(level.length[row])
            if choice is not None and not reads_all and place < readable:
                start = choice.covered[place]
            keys, values = level.k[call.layer], level.v[call.layer]
            if keys is not None and values is not None and end > start:
                span = slice(start, end)
                partials.append(_attend(call, b, keys[row, :, span], values[row, :, span]))
        if not partials:
            keys = call.k[b, :, :0]
            partials.append(_attend(call, b, keys, call.v[b, :, :0]))
        return partials

    def _choice(self, pass_: ForwardPass, call: AttentionCall, b: int) -> Choice | None:
        """What this sequence reads in this layer; None for everything."""
        sequence, anchor = pass_.sequences[b], self.sharing.anchor_of(call.layer)
        known = pass_.state.get((sequence, anchor))
        if call.layer == anchor and (known is None or self._is_due(known, pass_, b)):
            known = pass_.state[sequence, anchor] = self._choose(pass_, call, b)
        return known if known is not None and known.pages is not None else None

    def _is_due(self, known: Choice, pass_: ForwardPass, b: int) -> bool:
        age = pass_.rounds[b] - known.round
        if self.refresh == "pass":
            return True
        if known.pages is None or self.refresh == "round":
            return age > 0
        if self.refresh == "falling":
            return age > 0 and bool(pass_.state.get(("falling", pass_.sequences[b])))
        return self.refresh != "prompt" and age >= int(self.refresh)

    def _choose(self, pass_: ForwardPass, call: AttentionCall, b: int) -> Choice:
        """Score all full pages of the sequence and take the best."""
        store, sequence, size = pass_.store, pass_.sequences[b], self.scorer.page_size
        readable = len(store.levels) - (1 if store.num_shared else 0)
        if store.length(sequence) <= self.budget:
            return Choice(pass_.rounds[b])
        queries = self._queries(pass_, call, b)
        parts, pages, tail = [], [], 0
        for level, rows in zip(store.levels[:readable], store.row_maps[:readable], strict=True):
            row = int(rows[sequence])
            keys, length = level.k[call.layer], int(level.length[row])
            if keys is None or length < size:
                pages.append(0)
                tail += length
                continue
            index = PageIndex.of(level, call.layer, row, self.scorer, self._prompt(pass_, call, b))
            pages.append(index.update(keys[row], length))
            tail += length - pages[-1] * size
            parts.append(index.logits(queries, keys[row], call.scale))
        if not parts:
            return Choice(pass_.rounds[b])
        score = importance(torch.cat(parts, dim=-1), self.votes, self.pool)
        if self.sharing.all_heads:
            score = score.amax(dim=0, keepdim=True).expand_as(score).contiguous()
        total = sum(pages)
        first = min(total, -(-self.sink // size))
        last = min(total - first, -(-max(0, self.recent - tail) // size))
        count = min(total, max(first + last, (self.budget - tail) // size))
        score[:, :first] = torch.inf
        score[:, total - last :] = torch.inf
        best = score.topk(count, dim=-1).indices.sort(dim=-1).values
        return Choice(pass_.rounds[b], best, [n * size for n in pages])

    def _queries(self, pass_: ForwardPass, call: AttentionCall, b: int) -> Tensor:
        """The queries that choose, `[Hkv, M, D]`; a draft's own where there are no others yet."""
        q: Tensor | None = None
        if pass_.recorder is not None and self.queries == "verified":
            q = pass_.recorder.accepted(call.layer, pass_.sequences[b])
        if self.queries == "prompt" or (self.queries == "verified" and q is None):
            q = self._recorded(pass_, call, b)
        return _packed(call.q[b] if q is None else q, call.k.shape[1])

    def _prompt(self, pass_: ForwardPass, call: AttentionCall, b: int) -> Tensor | None:
        q = self._recorded(pass_, call, b)
        return None if q is None else _packed(q, call.k.shape[1])

    def _recorded(self, pass_: ForwardPass, call: AttentionCall, b: int) -> Tensor | None:
        if pass_.recorder is None:
            return None
        row = int(pass_.store.row_maps[0][pass_.sequences[b]])
        return pass_.recorder.prompt.get((call.layer, row))

    def _gathered(
        self, pass_: ForwardPass, call: AttentionCall, b: int, choice: Choice
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the chosen pages, gathered once for as long as the choice stands."""
        key = (pass_.sequences[b], "gathered", call.layer)
        known = pass_.state.get(key)
        if known is None or known[0] is not choice:
            store = pass_.store
            buffers = []
            for name in ("k", "v"):
                levels = [
                    (getattr(level, name)[call.layer], int(rows[pass_.sequences[b]]))
                    for level, rows in zip(store.levels, store.row_maps, strict=True)
                ]
                buffers.append(self._gather(levels, choice))
            known = pass_.state[key] = (choice, *buffers)
        return known[1], known[2]

    def _gather(self, levels: list[tuple[Tensor, int]], choice: Choice) -> Tensor:
        """The chosen pages out of all levels, each a buffer and the row in it."""
        assert choice.pages is not None
        size, offset, out = self.scorer.page_size, 0, None
        for (buffer, row), covered in zip(levels, choice.covered, strict=False):
            count = covered // size
            if not count:
                continue
            local = (choice.pages - offset).clamp(0, count - 1)
            part = gather(buffer[row], local, size)
            if out is None:
                out = part
            else:
                mine = (choice.pages >= offset).repeat_interleave(size, dim=1)
                out = torch.where(mine.unsqueeze(-1), part, out)
            offset += count
        assert out is not None
        return out


@dataclass(frozen=True)
class Choice:
    """Pages `[Hkv, n]` (ascending, counted through the levels), and the tokens per level that were
    there to choose from; what came later is read besides. pages None: everything is read."""

    round: int
    pages: Tensor | None = None
    covered: list[int] = field(default_factory=list)


def _packed(q: Tensor, kv_heads: int) -> Tensor:
    """Queries `[H, n, D]` of one sequence as `[Hkv, G * n, D]`."""
    return q.reshape(kv_heads, -1, q.shape[-1])


def _attend(call: AttentionCall, b: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence's queries over `k[Hkv, S, D]`, `v[Hkv, S, Dv]`: o and lse with batch size 1."""
    _, heads, nodes, _ = call.q.shape
    o, lse = partial_softmax(
        _packed(call.q[b], k.shape[0])[None],
        k[None],
        v[None],
        scale=call.scale,
        softcap=call.softcap,
    )
    return o.reshape(1, heads, nodes, -1), lse.reshape(1, heads, nodes)
