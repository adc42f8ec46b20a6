"""TokenTree: what a drafter proposes for one sequence, and what a pass needs of a batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

WORD = 64  # nodes per word of the ancestor bitmask
MAX_NODES = 256  # of one tree that is verified, the root included


class Law(IntEnum):
    """How a node's token came about, given the tokens before it and its earlier siblings."""

    POINT = 0  # chosen by a rule, or by noise shared with the target: a point mass (q = 1)
    DRAW = 1  # drawn from the parent's `draft_probs` without the tokens of earlier siblings
    IID = 2  # drawn from the parent's `draft_probs`, siblings may repeat (SpecInfer)


@dataclass
class TokenTree:
    """Draft tokens of one sequence, in topological order (a parent before its children).

    Node 0 is the last emitted token, already part of the text but not yet of the KV store.
    `draft_probs[v]` is the law `[V]` from which the sampled children of node v were drawn; siblings
    stand in the order in which they were drawn, which the verification rules rely on.
    `proposers[i]` names the drafter of node i. `chances[i]`, where a deterministic drafter says it,
    is how likely node i is to be accepted; all it decides is what is worth verifying.
    """

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    laws: list[Law] = field(default_factory=lambda: [Law.POINT])
    proposers: list[str] = field(default_factory=lambda: [""])
    draft_probs: dict[int, Tensor] = field(default_factory=dict)
    chances: dict[int, float] = field(default_factory=dict)

    @classmethod
    def root(cls, token: int) -> TokenTree:
        """A tree without drafts: its verification is a plain decoding step."""
        return cls([token])

    @classmethod
    def chain(cls, root: int, tokens: Iterable[int], proposer: str = "") -> TokenTree:
        """A single path of deterministic drafts below `root`."""
        tree, node = cls([root]), 0
        for token in tokens:
            node = tree.add(node, token, proposer=proposer)
        return tree

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_draft_tokens(self) -> int:
        return len(self.tokens) - 1

    @property
    def is_sampled(self) -> bool:
        """Whether any node was drawn at random, so that its law matters for verification."""
        return any(law is not Law.POINT for law in self.laws)

    def add(self, parent: int, token: int, law: Law = Law.POINT, proposer: str = "") -> int:
        """Append a child and return its node; in place.

        A token that stands under `parent` already is not added twice (the existing node is
        returned), unless it was drawn i.i.d.: skipping repeated draws is drawing without
        replacement.
        """
        if law is not Law.IID and (twin := self.child(parent, token)) is not None:
            return twin
        self.tokens.append(token)
        self.parents.append(parent)
        self.laws.append(law)
        self.proposers.append(proposer)
        return len(self.tokens) - 1

    def graft(self, other: TokenTree) -> None:
        """Merge another drafter's tree over the same root into this one, in place.

        Siblings must be drawn from one law: where this tree drew from another one than `other`,
        the children that `other` drew are left out, with all below them.
        """
        assert other.tokens[0] == self.tokens[0]
        place: list[int | None] = [0]
        for node in range(1, len(other)):
            law, parent = other.laws[node], other.parents[node]
            above = place[parent]
            if above is not None and law is not Law.POINT:
                probs = other.draft_probs[parent]
                if not torch.equal(self.draft_probs.setdefault(above, probs), probs):
                    above = None
            if above is None:
                place.append(None)
            else:
                place.append(self.add(above, other.tokens[node], law, other.proposers[node]))

    def child(self, node: int, token: int) -> int | None:
        """The first child of `node` that holds `token`."""
        for i in range(node + 1, len(self.tokens)):
            if self.parents[i] == node and self.tokens[i] == token:
                return i
        return None

    def children(self) -> list[list[int]]:
        """For every node its children in drawing order."""
        below: list[list[int]] = [[] for _ in self.tokens]
        for node, parent in enumerate(self.parents[1:], start=1):
            below[parent].append(node)
        return below

    def depths(self) -> list[int]:
        """Distance from the root; the position of node i is the root's plus `depths()[i]`."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, both included."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def path_tokens(self, node: int) -> list[int]:
        """Draft tokens from below the root down to `node`."""
        return [self.tokens[i] for i in self.path(node)[1:]]

    def cropped(self, max_nodes: int, max_depth: int) -> TokenTree:
        """The tree without nodes past `max_depth` or past the first `max_nodes`.

        Neither limit looks at token values, so the laws of the nodes that stay are unchanged.
        """
        depths = self.depths()
        if len(self) <= max_nodes and max(depths) <= max_depth:
            return self
        fits = [node for node in range(len(self)) if depths[node] <= max_depth]
        return self.only(fits[:max_nodes])

    def only(self, nodes: Iterable[int]) -> TokenTree:
        """The tree of `nodes`, in rising order, each after its parent."""
        place: dict[int, int] = {}
        tree = TokenTree([], [], [], [])
        for node in nodes:
            place[node] = len(tree.tokens)
            tree.tokens.append(self.tokens[node])
            tree.parents.append(place[self.parents[node]] if node else -1)
            tree.laws.append(self.laws[node])
            tree.proposers.append(self.proposers[node])
        tree.draft_probs = {place[v]: q for v, q in self.draft_probs.items() if v in place}
        tree.chances = {place[v]: p for v, p in self.chances.items() if v in place}
        return tree


def ancestor_words(parents: Sequence[Sequence[int]], width: int) -> Tensor:
    """Ancestor bitmasks `int64[B, width, ceil(width / 64)]`.

    Bit j of row i is set where node j is node i or an ancestor of it. Rows past a tree's end see
    only themselves, so that padding never makes an empty softmax.
    """
    num_words = -(-width // WORD)
    rows = []
    for tree in parents:
        masks: list[int] = []
        for node in range(width):
            above = masks[tree[node]] if node < len(tree) and tree[node] >= 0 else 0
            masks.append(above | 1 << node)
        rows.append([[_signed(mask >> WORD * w) for w in range(num_words)] for mask in masks])
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), width, num_words)


def _signed(word: int) -> int:
    """The low 64 bits of `word` as a signed integer, the only kind torch computes with."""
    word &= (1 << WORD) - 1
    return word - (1 << WORD) if word >> (WORD - 1) else word
