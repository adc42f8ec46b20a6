"""Exact enumeration: random programs run along all their choices, on random tables of laws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import Verdict, traversal

T = TypeVar("T")
Context = tuple[int, ...]
Laws = Callable[[Context], Tensor]  # the law of the next token, for each context
Rule = Callable[..., Verdict]
Trees = Sequence[tuple[float, TokenTree]]  # trees and their probabilities

KINDS = ("dense", "zeros", "equal", "disjoint", "certain target", "certain draft")
EXACT = 1e-12  # total variation that rounding may cause
BIASED = 1e-3  # total variation that a wrong rule must show


class Choices:
    """The random choices of one run: those of `script`, then always the first possible one."""

    def __init__(self, script: Sequence[int] = ()) -> None:
        self.script, self.probability = script, 1.0
        self.taken: list[int] = []
        self.open: list[list[int]] = []  # scripts of the runs that branch off this one

    def pick(self, probs: Iterable[float]) -> int:
        """An index drawn from `probs`."""
        probs = list(probs)
        if len(self.taken) < len(self.script):
            index = self.script[len(self.taken)]
        else:
            index, *others = (i for i, p in enumerate(probs) if p > 0.0)
            self.open += [[*self.taken, i] for i in others]
        self.taken.append(index)
        self.probability *= probs[index]
        return index

    def draw(self, probs: Tensor) -> int:
        """A token drawn from `probs[V]`."""
        return self.pick(probs.tolist())

    def uniform(self) -> Any:
        """A number from [0, 1) that may be asked once whether it lies below a threshold."""
        return _Uniform(self)


class _Uniform:
    def __init__(self, choices: Choices) -> None:
        self.choices = choices

    def __lt__(self, threshold: float) -> bool:
        return self.choices.pick((threshold, 1.0 - threshold)) == 0


def outcomes(program: Callable[[Choices], T]) -> Iterator[tuple[float, T]]:
    """Every result of `program` with its probability; it runs once for each chain of choices."""
    scripts: list[list[int]] = [[]]
    while scripts:
        choices = Choices(scripts.pop())
        result = program(choices)
        scripts += choices.open
        yield choices.probability, result


class Tables:
    """Random laws of a target and of two drafters, `float64[V]` for each context."""

    def __init__(self, vocab: int, seed: int, kind: str = "dense") -> None:
        self.vocab, self.seed, self.kind = vocab, seed, kind
        self._known: dict[tuple[int, Context], Tensor] = {}

    def target(self, context: Context) -> Tensor:
        return self._law(0, context)

    def draft(self, context: Context) -> Tensor:
        return self._law(0 if self.kind == "equal" else 1, context)

    def middle(self, context: Context) -> Tensor:
        """A drafter that agrees with the target a good deal."""
        return (self._law(0, context) + self._law(2, context)) / 2

    def _law(self, model: int, context: Context) -> Tensor:
        if (model, context) not in self._known:
            self._known[model, context] = torch.from_numpy(self._draw(model, context))
        return self._known[model, context]

    def _draw(self, model: int, context: Context) -> np.ndarray:
        random = np.random.default_rng([self.seed, model, *context])
        weights = random.exponential(size=self.vocab)
        if self.kind == ("certain target", "certain draft", None)[model]:
            weights = np.eye(self.vocab)[random.integers(self.vocab)]
        elif self.kind == "zeros":
            weights *= random.permutation(self.vocab) >= random.integers(self.vocab)
        elif self.kind == "disjoint" and model < 2:
            order = np.random.default_rng([self.seed, *context]).permutation(self.vocab)
            weights *= (order < self.vocab // 2) == bool(model)
        return weights / weights.sum()


def unknown_after(token: int, laws: Laws) -> Laws:
    """`laws`, but NaN right after some token."""
    return lambda context: laws(context) * (torch.nan if context[-1:] == (token,) else 1.0)


def shapes(nodes: int) -> list[Context]:
    """The parents of every ordered tree with so many nodes, level by level."""
    grown: list[Context] = [(-1,)]
    for node in range(1, nodes):
        grown = [(*t, parent) for t in grown for parent in range(max(t[-1], 0), node)]
    return grown


def grow(choices: Choices, parents: Sequence[int], how: Sequence[str], draft: Laws) -> TokenTree:
    """A tree of the given shape. `how[i - 1]` says how node i comes about, see `add_child`.

    A node that merges with a sibling adds its children to the sibling's.
    """
    tree = TokenTree.root(0)
    place: list[int | None] = [0]
    for parent, kind in zip(parents[1:], how, strict=True):
        above = place[parent]
        place.append(None if above is None else add_child(choices, tree, above, kind, draft))
    return tree


def grown(shape: Context, how: str | Sequence[str], draft: Laws) -> list[tuple[float, TokenTree]]:
    """All trees of one shape with their probabilities; how: of each node, or of all."""
    how = [how] * (len(shape) - 1) if isinstance(how, str) else how
    return list(outcomes(lambda choices: grow(choices, shape, how, draft)))


def add_child(choices: Choices, tree: TokenTree, parent: int, kind: str, draft: Laws) -> int | None:
    """One more child below `parent`.

    point   chosen by rule: the k-th such child of a node is its k-th most probable token
    draw    drawn without the tokens of earlier siblings; None when no mass is left
    repeat  drawn i.i.d., but merged with an earlier sibling that holds the same token
    iid     drawn i.i.d., repeats and all
    """
    probs = draft(tuple(tree.path_tokens(parent)))
    siblings = tree.children()[parent]
    if kind == "point":
        rank = sum(tree.laws[i] is Law.POINT for i in siblings) % len(probs)
        return tree.add(parent, int(probs.argsort(descending=True, stable=True)[rank]))
    tree.draft_probs[parent] = probs
    if kind == "draw":
        probs = without(probs, [tree.tokens[i] for i in siblings])
        if not float(probs.sum()) > 0.0:
            return None
    return tree.add(parent, choices.draw(probs), Law.IID if kind == "iid" else Law.DRAW)


def without(probs: Tensor, tokens: Sequence[int]) -> Tensor:
    """`probs` given that none of `tokens` is drawn; zeros if nothing else can be."""
    rest = probs.clone()
    rest[list(tokens)] = 0.0
    return rest / rest.sum() if float(rest.sum()) > 0.0 else rest


def verdicts(trees: Trees, target: Laws, rule: Rule = traversal) -> Iterator[tuple[float, Verdict]]:
    """What `rule` decides about the trees, with the probability of each outcome of its tests."""
    for probability, tree in trees:

        def verify(choices: Choices, tree: TokenTree = tree) -> Verdict:
            def law(node: int) -> Tensor:
                return target(tuple(tree.path_tokens(node)))

            return rule(tree, law, choices.uniform, choices.draw)

        for p, verdict in outcomes(verify):
            yield probability * p, verdict


def mean_accepted(trees: Trees, target: Laws, rule: Rule = traversal) -> float:
    return sum(p * verdict.num_accepted for p, verdict in verdicts(trees, target, rule))


def joint(emitted: Iterable[tuple[float, Sequence[int]]], target: Laws, length: int) -> np.ndarray:
    """The law `[V] * length` of the first tokens.

    What is longer is cut; what is shorter goes on with the target's law, as after an exact round.
    """
    mass: defaultdict[Context, float] = defaultdict(float)
    for probability, tokens in emitted:
        mass[tuple(tokens[:length])] += probability
    vocab = len(target(()))
    for size in range(length):
        for context in [c for c in mass if len(c) == size]:
            p = mass.pop(context)
            for token, conditional in enumerate(target(context).tolist()):
                mass[(*context, token)] += p * conditional
    law = np.zeros([vocab] * length)
    for context, p in mass.items():
        law[context] = p
    return law


def distance(
    emitted: Iterable[tuple[float, Sequence[int]]], target: Laws, length: int = 4
) -> float:
    """Total variation between the law of `emitted` and that of plain decoding."""
    difference = joint(emitted, target, length) - joint([(1.0, ())], target, length)
    return float(np.abs(difference).sum() / 2)


def bias(trees: Trees, target: Laws, rule: Rule = traversal, length: int = 4) -> float:
    """Total variation between what `rule` emits for the trees and plain decoding."""
    decided = verdicts(trees, target, rule)
    return distance(((p, verdict.tokens) for p, verdict in decided), target, length)
