"""Sampler: one row's law, from the target's logits to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from specdec.kernels.linear.head_argmax import best_of
from specdec.kernels.precision import wide
from specdec.sampling.forking import CannotFork
from specdec.sampling.noise import Noise
from specdec.sampling.processors import Processor, is_stateless, own_copy
from specdec.sampling.scores import MODEL, check_kind, fault_of, nothing_allowed
from specdec.sampling.text import Text
from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import LawUnknown, Verdict, traversal, walk


@dataclass
class Sampler:
    """How one row's tokens are chosen: processors, greedy or drawn, and with which noise.

    acceptance is "coupled" or "rejection"; both are the exact argmax rule when `samples` is false.
    `before` holds ids that processors see in front of the row's tokens (padding of a batch that
    came padded). `processors` is replaced in place as those with state move on.
    """

    processors: list[Processor]
    samples: bool
    noise: Noise
    acceptance: str = "coupled"
    before: Sequence[int] = ()
    _ids: Tensor | None = None
    _known: int = 0

    @property
    def draws(self) -> bool:
        """Whether drafts are drawn at random, so that the text depends on how they were drawn."""
        return self.samples and self.acceptance == "rejection"

    @property
    def is_argmax(self) -> bool:
        """Whether the law of a node is the argmax of its logits, whatever came before."""
        return not self.samples and not self.processors

    def verify(
        self, row: Text, tree: TokenTree, logits: Tensor, is_final: Callable[[int], bool]
    ) -> Verdict:
        """The verdict on a tree, given the target's `logits[N, V]` after each of its nodes, or
        their argmax `int64[N]` if it `is_argmax`."""
        laws = NodeLaws(self, row, tree, logits)
        try:
            verdict = self.decide(laws, is_final)
        except LawUnknown as unknown:  # of the token that follows the last one kept
            raise unknown.error from unknown.error.__cause__
        if not verdict.is_final:
            self.processors = laws.after.get(verdict.path[-1], self.processors)
        return verdict

    def decide(self, laws: NodeLaws, is_final: Callable[[int], bool]) -> Verdict:
        """The verdict by the rule in force; processors with state stay where they are."""
        row, tree = laws.row, laws.tree
        if self.samples and self.acceptance == "rejection" and tree.is_sampled:
            if not laws.can_branch:  # then drafts that were drawn cannot be judged: none are kept
                return walk(TokenTree.root(tree.tokens[0]), laws.choose, is_final)
            tests = self.noise.tests(row.round)
            return traversal(tree, laws.probs, tests.uniform, tests.draw, is_final)
        return walk(tree, laws.choose, is_final)

    def without_state(self) -> Sampler:
        """The sampler a drafter uses for its own law: processors without state only."""
        stateless = [p for p in self.processors if is_stateless(p)]
        return Sampler(stateless, self.samples, self.noise, self.acceptance, self.before)

    def draft_children(
        self, name: str, row: Text, path: Sequence[int], logits: Tensor, node: int, width: int
    ) -> tuple[list[int], Law, Tensor]:
        """Up to `width` draft tokens after `row.tokens + path`, from the `logits[V]` of a drafter
        called `name`.

        Returns them in drawing order, the law they were drawn by, and the draft law `[V]` itself.
        Greedy and coupled drafts are deterministic: the top of the law, or of the law under the
        noise that the target will use. Under rejection they are drawn without replacement, by
        Gumbel-top-k on noise keyed by the drafter, the round and the parent's `node` in its tree.
        """
        scores = wide(logits)
        if not row.ends.isdisjoint(path):
            return [], Law.POINT, scores.softmax(-1)  # nothing follows an end
        try:
            stateless = [p for p in self.processors if is_stateless(p)]
            scores = self.process(stateless, row, path, scores)
        except Exception as error:
            raise LawUnknown(row, error) from error
        probs = scores.softmax(-1)
        law, ranked = Law.POINT, scores.to(torch.float64)
        if self.samples and self.acceptance == "coupled":
            ranked = ranked + self.gumbel(row, len(path), scores)
        elif self.samples:
            law = Law.DRAW
            noise = self.noise.inside(name, row.round)
            ranked = ranked + noise.draft(row.round, node, scores.shape[-1], scores.device)
        width = min(width, int((probs > 0).sum()))
        return ranked.topk(width).indices.tolist(), law, probs

    def process(
        self, processors: Sequence[Processor], row: Text, path: Sequence[int], scores: Tensor
    ) -> Tensor:
        """`scores[V]` through some processors, which see the row's tokens and then `path`.

        Raises NothingAllowed where no token can be chosen by what they leave, with the name of the
        first after which that was so.
        """
        source: object = MODEL
        fault = fault_of(scores, self.samples)
        if processors:
            ids = self.input_ids(row, path, scores.device)
            for processor in processors:
                before = scores.unsqueeze(0)
                scores = check_kind(processor(ids, before), before, processor).squeeze(0)
                known, fault = fault, fault_of(scores, self.samples)
                if fault is not None and known is None:
                    source = processor
        if fault is not None:
            raise nothing_allowed(row.index, len(row.tokens) + len(path), fault, source)
        return scores

    def gumbel(self, row: Text, ahead: int, like: Tensor) -> Tensor:
        """The noise that decides the token after `ahead` more tokens.

        Keyed by its position; but a drafter's own verification under rejection may draw the same
        position again after a draft was turned down, and then needs new noise.
        """
        if row.nesting and self.acceptance == "rejection":
            return self.noise.inner(row.round, ahead, like.shape[-1], like.device)
        return self.noise.target(len(row.tokens) + ahead, like.shape[-1], like.device)

    def input_ids(self, row: Text, path: Sequence[int], device: torch.device) -> Tensor:
        """`int64[1, L]`: what a processor or criterion is shown; a view into a kept buffer."""
        start = len(self.before)
        need = start + len(row.tokens) + len(path)
        if self._ids is None or self._ids.shape[0] < need:
            self._ids = torch.empty(need + 1024, dtype=torch.int64, device=device)
            self._ids[:start] = torch.tensor(self.before, dtype=torch.int64)
            self._known = 0
        fresh = [*row.tokens[self._known :], *path]
        at = start + self._known
        self._ids[at : at + len(fresh)] = torch.tensor(fresh, dtype=torch.int64)
        self._known = min(row.num_final, len(row.tokens))
        return self._ids[:need].unsqueeze(0)


class NodeLaws:
    """The processed target law at the nodes of one tree, worked out only where it is asked for."""

    def __init__(self, sampler: Sampler, row: Text, tree: TokenTree, logits: Tensor) -> None:
        self.sampler, self.row, self.tree, self.logits = sampler, row, tree, logits
        self.has_state = any(not is_stateless(p) for p in sampler.processors)
        self.after: dict[int, list[Processor]] = {-1: sampler.processors}
        self.argmax: list[int] | None = None
        if sampler.is_argmax:
            self.argmax = (best_of(logits) if logits.is_floating_point() else logits).tolist()

    @cached_property
    def can_branch(self) -> bool:
        """Whether processors can be asked about several branches, each with a state of its own."""
        if not self.has_state:
            return True
        try:
            for processor in self.sampler.processors:
                own_copy(processor)
        except CannotFork:
            return False
        return True

    def choose(self, node: int) -> int:
        """The target's own choice after `node`: argmax, under the position's noise if sampling."""
        if self.argmax is not None:
            if self.argmax[node] < 0:
                at = len(self.row.tokens) + len(self.tree.path_tokens(node))
                error = nothing_allowed(self.row.index, at, "no score is the largest")
                raise self._failure(error, plain=True)
            return self.argmax[node]
        path = self.tree.path_tokens(node)
        scores = self._scores(node, path, branch=False)
        if self.sampler.samples:
            scores = scores.to(torch.float64) + self.sampler.gumbel(self.row, len(path), scores)
        return int(scores.argmax())

    def probs(self, node: int) -> Tensor:
        """The target's law `float64[V]` after `node`."""
        scores = self._scores(node, self.tree.path_tokens(node), branch=True)
        return scores.to(torch.float64).softmax(-1)

    def _scores(self, node: int, path: list[int], branch: bool) -> Tensor:
        logits = self.logits[node]
        processors = self.after[self.tree.parents[node]] if node else self.after[-1]
        if branch and self.has_state:
            processors = [own_copy(p) for p in processors]
        # In float32 as transformers does it; a copy, because processors may write in place.
        wide = logits.dtype == torch.float64
        scores = logits.clone() if wide else logits.to(torch.float32, copy=True)
        try:
            scores = self.sampler.process(processors, self.row, path, scores)
        except Exception as error:
            failure = self._failure(error, plain=not (branch and path))
            if failure is error:
                raise
            raise failure from error
        self.after[node] = processors
        return scores

    def _failure(self, error: Exception, plain: bool) -> Exception:
        """What to raise for an error: itself only where plain decoding of the target meets it."""
        return error if plain and not self.row.nesting else LawUnknown(self.row, error)
