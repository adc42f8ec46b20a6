"""The law: which draft tokens stay, and what is emitted after them.

Pure functions of a tree, the target's law and randomness; no model, no cache. Two rules cover every
drafter:

`walk`       follows the target's own choices through the tree. At temperature 0 the choice is the
             argmax; under *coupled* acceptance it is argmax(log p + Gumbel noise of the position),
             and the drafter used the same noise. For deterministic drafts (n-gram, top-k nodes)
             it is also the best rejection rule there is: a token x ~ p is kept if a child holds it,
             which accepts child c with probability p(c) and otherwise emits from p without the
             children's tokens.
`traversal`  keeps as much as the joint law of sampled drafts allows: traversal verification
             (arXiv 2505.12398), which is block verification (arXiv 2403.10444) on a chain.

Words as in the literature: a draft token is *accepted*; a token drawn after a rejection is
*recovered*; one drawn after full acceptance is the *bonus* token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.sampling.text import Text
from specdec.sampling.tree import Law, TokenTree


class LawUnknown(Exception):
    """The law behind some draft tokens of `row` cannot be told: a logits processor raised there, or
    the scores are no numbers.

    It never leaves the package: such drafts are left out. error: what was raised.
    """

    def __init__(self, row: Text, error: Exception) -> None:
        super().__init__(f"{type(error).__name__} when its drafts were shaped")
        self.row, self.error = row, error


@dataclass(frozen=True)
class Verdict:
    """What one round emits for one sequence.

    `path` are the nodes from the root (always kept) to the last accepted one; `tokens` are the
    tokens emitted, the accepted ones and then the recovered or bonus token. With `is_final` the
    sequence is finished: `tokens` ends where plain decoding would have stopped, so the last one
    may be a draft token, with its node at the end of `path`.
    """

    path: list[int]
    tokens: list[int]
    is_final: bool = False

    @property
    def num_accepted(self) -> int:
        return len(self.path) - 1


def _never(token: int) -> bool:
    return False


def walk(
    tree: TokenTree,
    choose: Callable[[int], int],
    is_final: Callable[[int], bool] = _never,
) -> Verdict:
    """Follow the target's choices as long as a child holds them.

    `choose(node)` is the token the target emits after `node`; it is called once for every emitted
    token, in order, and never past a token for which `is_final` is true: a stateful logits
    processor sees exactly the calls of plain decoding. `is_final(token)` is likewise called once
    for every emitted token.
    """
    children = tree.children()
    path, tokens, node = [0], [], 0
    while True:
        token = choose(node)
        tokens.append(token)
        final = is_final(token)
        below = next((c for c in children[node] if tree.tokens[c] == token), None)
        if below is not None:
            path.append(below)
        if final or below is None:
            return Verdict(path, tokens, final)
        node = below


def traversal(
    tree: TokenTree,
    target_probs: Callable[[int], Tensor],
    uniform: Callable[[], float],
    draw: Callable[[Tensor], int],
    is_final: Callable[[int], bool] = _never,
) -> Verdict:
    """Traversal verification of a tree with sampled children (arXiv 2505.12398, Algorithm 2).

    `target_probs(node) -> [V]` is the target's law after `node`, float32 or better; `uniform()`
    gives independent draws from [0, 1), fresh for every test; `draw(probs)` draws the last token.
    Children may be drawn without replacement, i.i.d. or be deterministic, also mixed below one
    node: the law of each is taken given its earlier siblings, and a deterministic child has q = 1.
    Drafts end where `target_probs` raises LawUnknown or a law is no number; that depends on the
    tokens before them only.
    """
    children = tree.children()
    # keep[v]: the probability, still owed, with which the path down to v is kept.
    keep: dict[int, float] = {0: 1.0}
    target: dict[int, Tensor] = {}
    draft: dict[int, Tensor] = {}

    def target_at(node: int) -> Tensor:
        if node not in target:
            target[node] = target_probs(node)
        return target[node]

    def draft_at(parent: int, child: int) -> Tensor:
        """The law of `child` given the tokens before it and its earlier siblings."""
        if tree.laws[child] is Law.POINT:
            law = torch.zeros_like(target_at(parent))
            law[tree.tokens[child]] = 1.0
            return law
        if tree.laws[child] is Law.IID:
            return tree.draft_probs[parent].to(target_at(parent))
        if parent not in draft:
            draft[parent] = tree.draft_probs[parent].to(target_at(parent))
        return draft[parent]

    def remove(parent: int, child: int) -> None:
        """Drop a rejected leaf: the parent now owes the residual of that very test."""
        p, q, owed = target_at(parent), draft_at(parent, child), keep[parent]
        residual = (owed * p - q).clamp_min(0.0)
        mass = float(residual.sum())
        if mass > 0.0:
            target[parent] = residual / mass
        # else p == q up to rounding, and this rejection had probability 0: p stands.
        denominator = mass + 1.0 - owed
        keep[parent] = mass / denominator if denominator > 0.0 else 1.0
        children[parent].remove(child)
        if parent in tree.draft_probs:
            _exclude(draft, parent, tree, p, tree.tokens[child])

    node = 0
    while True:
        while children[node]:
            child = children[node][0]
            try:
                p, q = target_at(node), draft_at(node, child)
            except LawUnknown:
                children[node] = []
                break
            token = tree.tokens[child]
            p_of, q_of = float(p[token]), float(q[token])
            if math.isnan(p_of + q_of):  # `min(1.0, nan)` is 1.0: it would keep any draft
                children[node] = []
                break
            keep[child] = min(1.0, keep[node] * (p_of / q_of if q_of > 0.0 else 0.0))
            node = child
        if node == 0 or uniform() < keep[node]:
            break
        parent = tree.parents[node]
        remove(parent, node)
        node = parent

    path = tree.path(node)
    tokens = []
    for depth, kept in enumerate(path[1:], start=1):
        tokens.append(tree.tokens[kept])
        if is_final(tree.tokens[kept]):
            return Verdict(path[: depth + 1], tokens, True)
    tokens.append(draw(target_at(node)))
    return Verdict(path, tokens, is_final(tokens[-1]))


def _exclude(
    draft: dict[int, Tensor], parent: int, tree: TokenTree, like: Tensor, token: int
) -> None:
    """Zero a rejected token in the parent's draft law and renormalise, for draws that follow it."""
    if parent not in draft:
        draft[parent] = tree.draft_probs[parent].to(like)
    law = draft[parent].clone()
    law[token] = 0.0
    mass = law.sum()
    draft[parent] = law / mass if float(mass) > 0.0 else law
