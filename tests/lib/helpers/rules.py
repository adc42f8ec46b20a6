"""Other verification rules, right and wrong, with the signature of `traversal`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import Verdict, walk

from helpers.enumeration import without


def recursive_rejection(
    tree: TokenTree,
    target_probs: Callable[[int], Tensor],
    uniform: Callable[[], float],
    draw: Callable[[Tensor], int],
    *,
    from_residual: bool = True,
    renormalise: bool = True,
) -> Verdict:
    """Token by token, child by child (Leviathan et al.; SpecInfer; Sequoia). Right as it stands.

    Wrong if the last token is drawn `from_residual=False`, from the target's law after a rejection,
    or with `renormalise=False`, by tests against the law of the first child also for later ones.
    """
    children = tree.children()
    node = 0
    while True:
        fresh = owed = target_probs(node)
        below = None
        for i, child in enumerate(children[node]):
            token = tree.tokens[child]
            earlier = [tree.tokens[c] for c in children[node][:i]]
            if tree.laws[child] is Law.POINT:
                q = torch.zeros_like(owed)
                q[token] = 1.0
            elif tree.laws[child] is Law.IID:
                q = tree.draft_probs[node]
            elif renormalise:
                q = without(tree.draft_probs[node], earlier)
            else:
                q = tree.draft_probs[node].clone()
                q[earlier] = 0.0
            if float(q[token]) > 0.0 and uniform() < min(1.0, float(owed[token] / q[token])):
                below = child
                break
            residual = (owed - q).clamp_min(0.0)
            owed = residual / residual.sum() if float(residual.sum()) > 0.0 else owed
        if below is None:
            path = tree.path(node)
            last = draw(owed if from_residual else fresh)
            return Verdict(path, [*tree.path_tokens(node), last])
        node = below


def walk_by_draws(
    tree: TokenTree,
    target_probs: Callable[[int], Tensor],
    uniform: Callable[[], float],
    draw: Callable[[Tensor], int],
) -> Verdict:
    """`walk` as the rejection rule of deterministic drafts: the target's choices are draws."""
    return walk(tree, lambda node: draw(target_probs(node)))


def block_acceptance(draft: Tensor, target: Tensor, tokens: list[int]) -> list[float]:
    """P(exactly i draft tokens are kept) for i = 0 .. K, by block verification (arXiv 2403.10444).

    `draft[K, V]` and `target[K, V]` are the laws before each of the K `tokens`, `target[K]` is not
    needed. The formulas of the paper, not those of traversal verification.
    """
    depth = len(tokens)
    path = [1.0]
    for i, token in enumerate(tokens):
        path.append(min(1.0, path[-1] * float(target[i, token] / draft[i, token])))
    passes = [1.0]
    for i in range(1, depth):
        excess = float((path[i] * target[i] - draft[i]).clamp_min(0.0).sum())
        denominator = excess + 1.0 - path[i]
        passes.append(excess / denominator if denominator > 0.0 else 1.0)
    passes.append(path[depth])
    kept, missed = [0.0] * (depth + 1), 1.0
    for i in range(depth, -1, -1):  # the longest prefix that passes, not the first failure
        kept[i] = missed * passes[i]
        missed *= 1.0 - passes[i]
    return kept
