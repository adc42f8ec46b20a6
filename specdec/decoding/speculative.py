"""Speculative: speculation inside a drafter, so that a hierarchy is recursion of one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from specdec.control.calibration import calibrate
from specdec.control.draft_length import FAR_DEPTH, DraftLength
from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Reach, Traits
from specdec.decoding.stats import Stats
from specdec.forward.forward_pass import View
from specdec.forward.plan import Needs
from specdec.forward.view_reads import ReadStats
from specdec.model.target import Target
from specdec.sampling.sampler import NodeLaws, Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES, Law, TokenTree
from specdec.sampling.verify import Verdict
from specdec.sampling.vocabulary import fit


class Speculative(Drafter):
    """A model that drafts for someone, and is itself sped up by a drafter of its own.

    Its tokens follow the model's own law exactly, because an inner rejection draws from the
    residual of its own test; so they form a chain whose law is known at every position, and the
    outer level may use block verification. (The released TriForce code draws from the model's law
    after an inner rejection, and its text is then not the target's at temperature > 0.)

    vocab_size: of the outer level; num_draft_tokens: draft tokens for it per round, at most.
    shares_kv: the model is the outer level's own and reads its KV, through `view`. follows: where
    verifying has to fetch keys and values `DraftLength` says how many draft tokens instead.
    """

    def __init__(
        self,
        name: str,
        model: Target,
        view: View,
        drafter: Drafter,
        vocab_size: int,
        num_draft_tokens: int,
        shares_kv: bool = False,
        follows: bool = False,
    ) -> None:
        self.name, self.target, self.view = name, model, view
        self.drafter = Asking(drafter)
        self.reach = Reach.of(model)
        self.vocab_size, self.num_draft_tokens = vocab_size, num_draft_tokens
        self.shares_kv, self.follows = shares_kv, follows
        own = Needs(far_costs=follows)
        self.needs = Needs.all_of([own, view.needs, drafter.needs if shares_kv else Needs()])
        self.traits = Traits(name, num_draft_tokens, reads=view.reads if shares_kv else None)
        self.stats: dict[int, Stats] = {}
        self.samplers: dict[int, Sampler] = {}
        self._model: CachedModel | None = None
        self._length: DraftLength | None = None

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        for row in rows:
            self.stats[row.index] = Stats()
            self.samplers[row.index] = row.sampler.without_state()
        if self._model is not None:
            self._model.join(rows)
        else:
            base = verifier if self.shares_kv else None
            self._model = CachedModel(
                self.target, self.view, rows, base=base, sees_content=self.shares_kv,
                slots=verifier.slots,
            )  # fmt: skip
            if self.drafter.needs.costs:
                calibrate(self._model, rows)
            if self.follows and verifier.store.places and verifier.costs.table:
                key, clock = f"{self.name} x1", verifier.target.clock
                usual, self.num_draft_tokens = self.num_draft_tokens, FAR_DEPTH
                self._length = DraftLength(verifier.costs, self.name, key, usual, clock)
        self.drafter.join(rows, self._model)

    def leave(self, rows: Sequence[Row]) -> None:
        self.drafter.leave(rows)
        self.model.leave(rows)
        for row in rows:
            del self.stats[row.index], self.samplers[row.index]

    @property
    def model(self) -> CachedModel:
        """The model with the KV of the rows that have joined."""
        assert self._model is not None, "no row has joined"
        return self._model

    def inner_stats(self, row: Row) -> dict[str, Stats]:
        """What this level's verification made of its drafter's tokens, for one row."""
        return {f"{self.drafter.name} for {self.view.name}": self.stats[row.index]}

    def reads(self, row: Row) -> dict[str, ReadStats]:
        """What sparse views of this level and the one inside it read for a row, by name."""
        return {**self.model.reads(row.slot), **self.drafter.reads(row)}

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        if self._length is not None:
            return self._length.propose(self._chains, rows, limits)
        return self._chains(rows, limits)

    def _chains(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        trees = {row.index: TokenTree.root(row.tokens[-1]) for row in rows}
        inner = [self._shadow(row) for row in rows]
        room = {
            row.index: min(limit, self.num_draft_tokens)
            for row, limit in zip(rows, limits, strict=True)
        }
        while live := [row for row in inner if room[row.index] > 0]:
            self._round(live, room, trees)
        return [trees[row.index] for row in rows]

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """The cached model and the inner drafter follow the rows' tokens by themselves."""
        if self._length is not None:
            self._length.observe(rows, verdicts)

    def _shadow(self, row: Row) -> Row:
        """The row as the inner level sees it, to which it adds tokens that may be taken back."""
        sampler = self.samplers[row.index]
        sampler.noise = row.sampler.noise.inside(self.name, row.round)
        return replace(
            row,
            tokens=list(row.tokens),
            sampler=sampler,
            round=0,
            nesting=row.nesting + 1,
        )

    def _round(
        self, rows: Sequence[Row], room: dict[int, int], outer: dict[int, TokenTree]
    ) -> None:
        """One inner round; what it emits goes to the rows, and with its law to `outer`."""
        limits = [room[row.index] - 1 for row in rows]
        trees = [
            tree.cropped(MAX_NODES, limit)
            for tree, limit in zip(self.drafter.propose(rows, limits), limits, strict=True)
        ]
        verdicts = []
        start, keys = self.target.clock(), sum(len(row.tokens) for row in rows)
        for row, tree, logits in zip(rows, trees, self.model.forward(rows, trees), strict=True):
            laws = NodeLaws(row.sampler, row, tree, fit(logits, self.vocab_size))
            verdict = row.sampler.decide(laws, self._stop(row))
            self._extend(outer[row.index], row, laws, verdict)
            verdicts.append(verdict)
        nodes = len(rows) * max(map(len, trees))
        self.model.costs.note(nodes, keys, self.target.clock() - start)
        for row, tree, verdict in zip(rows, trees, verdicts, strict=True):
            self.stats[row.index].record(tree, verdict.num_accepted, len(verdict.tokens))
            row.tokens.extend(verdict.tokens)
            row.round += 1
            room[row.index] -= len(verdict.tokens)
            if verdict.is_final:
                room[row.index] = 0
        self.drafter.observe(rows, trees, verdicts)

    def _stop(self, row: Row) -> Callable[[int], bool]:
        """Whether a token is the last of a draft: the text's end, or one that the model lacks."""
        known = self.reach.vocab_size
        return lambda token: token in row.ends or (known is not None and token >= known)

    def _extend(self, chain: TokenTree, row: Row, laws: NodeLaws, verdict: Verdict) -> None:
        sampled = row.sampler.samples and row.sampler.acceptance == "rejection"
        places = verdict.path[: len(verdict.tokens)]  # a final token may be a draft, too
        for place, token in zip(places, verdict.tokens, strict=True):
            end = len(chain) - 1
            if sampled:
                chain.draft_probs[end] = laws.probs(place)
            chain.add(end, token, Law.DRAW if sampled else Law.POINT, self.name)
