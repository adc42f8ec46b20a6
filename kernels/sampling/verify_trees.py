"""verify_trees: which nodes of a batch of trees stay, by the rules of `specdec.sampling.verify`.

Trees are padded to N nodes in topological order. parents: `int32[B, N]`, -1 for the root and for
padding; tokens: `int64[B, N]`. Both ops return paths `int32[B, N]`, from the root (node 0) to the
last accepted node, padded with -1.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


class Law(IntEnum):
    """How a node's token came about; as in `specdec.sampling.tree`."""

    POINT = 0
    DRAW = 1
    IID = 2


@dispatched
def walk_trees(choices: Tensor, tokens: Tensor, parents: Tensor) -> Tensor:
    """Follow the target's own choices `int64[B, N]` as long as a child holds them."""
    paths = torch.full_like(parents, -1)
    for path, chosen, held, above in zip(
        paths, choices.tolist(), tokens.tolist(), parents.tolist(), strict=True
    ):
        node, depth = 0, 0
        while node >= 0:
            path[depth] = node
            below = (i for i, p in enumerate(above) if p == node and held[i] == chosen[node])
            node, depth = next(below, -1), depth + 1
    return paths


@dispatched
def traverse_trees(
    target: Tensor, draft: Tensor, tokens: Tensor, parents: Tensor, laws: Tensor, tests: Tensor
) -> tuple[Tensor, Tensor]:
    """Traversal verification (arXiv 2505.12398) of trees with sampled children.

    target: float `[B, N, V]`, the target's law after each node; changed in place: the row of the
    last node of a path then holds the law of the token that follows it. draft: the same type,
    `[B, N, V]`, the law that a node's sampled children were drawn from; read only where there are
    such. laws: `int32[B, N]`, a `Law` for each node. tests: `float64[B, T]`, independent uniform
    numbers; T is at least N - 1. Siblings stand in the order in which they were drawn.

    Where a law is no number, drafts end. Returns the paths and how many tests each sequence took,
    `int32[B]`.
    """
    paths, used = torch.full_like(parents, -1), parents.new_zeros(len(parents))
    for b in range(len(parents)):
        tree = _Tree(target[b], draft[b], tokens[b].tolist(), parents[b].tolist(), laws[b].tolist())
        node, used[b] = tree.traverse(tests[b].tolist())
        path = tree.path(node)
        paths[b, : len(path)] = torch.tensor(path, dtype=paths.dtype)
    return paths, used


class _Tree:
    """One sequence; `keep` holds the probability, still owed, with which a path is kept."""

    def __init__(
        self,
        target: Tensor,
        draft: Tensor,
        tokens: list[int],
        parents: list[int],
        laws: list[int],
    ) -> None:
        self.target, self.draft, self.tokens, self.parents, self.laws = (
            target, draft, tokens, parents, laws,
        )  # fmt: skip
        self.below: list[list[int]] = [[] for _ in tokens]
        for node, parent in enumerate(parents):
            if parent >= 0:
                self.below[parent].append(node)
        self.keep = {0: 1.0}
        self.rest: dict[int, Tensor] = {}  # draft laws without the tokens that were rejected

    def traverse(self, tests: list[float]) -> tuple[int, int]:
        """The last node that stays, and how many tests that took."""
        node, used = 0, 0
        while True:
            while self.below[node]:
                child = self.below[node][0]
                token = self.tokens[child]
                p, q = float(self.target[node, token]), float(self._law(node, child)[token])
                if math.isnan(p + q):
                    self.below[node] = []
                    break
                self.keep[child] = min(1.0, self.keep[node] * (p / q if q > 0.0 else 0.0))
                node = child
            if node == 0:
                return node, used
            used += 1
            if tests[used - 1] < self.keep[node]:
                return node, used
            self._remove(self.parents[node], node)
            node = self.parents[node]

    def path(self, node: int) -> list[int]:
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def _law(self, parent: int, child: int) -> Tensor:
        """The law of `child` given the tokens before it and its earlier siblings."""
        if self.laws[child] == Law.POINT:
            law = torch.zeros_like(self.target[parent])
            law[self.tokens[child]] = 1.0
            return law
        if self.laws[child] == Law.IID:
            return self.draft[parent]
        return self.rest.get(parent, self.draft[parent])

    def _remove(self, parent: int, child: int) -> None:
        """Drop a rejected leaf: the parent now owes the residual of that very test."""
        p, q, owed = self.target[parent], self._law(parent, child), self.keep[parent]
        residual = (owed * p - q).clamp_min(0.0)
        mass = float(residual.sum())
        if mass > 0.0:
            self.target[parent] = residual / mass
        left = mass + 1.0 - owed
        self.keep[parent] = mass / left if left > 0.0 else 1.0
        if any(self.laws[i] for i, above in enumerate(self.parents) if above == parent):
            rest = self.rest.get(parent, self.draft[parent]).clone()
            rest[self.tokens[child]] = 0.0
            total = float(rest.sum())
            self.rest[parent] = rest / total if total > 0.0 else rest
        self.below[parent].remove(child)
