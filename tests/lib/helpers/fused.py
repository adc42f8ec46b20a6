"""Batches of trees for the ops of `verify_trees`, and their proof against `verify.py`."""

from __future__ import annotations

import torch

from specdec.sampling.tree import Law
from specdec.sampling.verify import traversal

from helpers.enumeration import outcomes

NEVER = 9.0  # a test that no threshold exceeds


def batch(trees, target, vocab, dtype=torch.float64, device="cpu"):
    """target, draft, tokens, parents and laws of trees, padded to the largest; `target(tree, node)`
    is the law after a node. What the op must not read is NaN."""
    count = max(map(len, trees))
    target_probs = torch.full((len(trees), count, vocab), torch.nan, dtype=torch.float64)
    draft_probs = target_probs.clone()
    tokens = torch.zeros(len(trees), count, dtype=torch.int64)
    parents = torch.full((len(trees), count), -1, dtype=torch.int32)
    laws = torch.full((len(trees), count), int(Law.POINT), dtype=torch.int32)
    for b, tree in enumerate(trees):
        tokens[b, : len(tree)] = torch.tensor(tree.tokens)
        parents[b, : len(tree)] = torch.tensor(tree.parents)
        laws[b, : len(tree)] = torch.tensor([int(law) for law in tree.laws])
        for node in range(len(tree)):
            target_probs[b, node] = target(tree, node)
        for node, probs in tree.draft_probs.items():
            draft_probs[b, node] = probs
    floats = (x.to(device, dtype) for x in (target_probs, draft_probs))
    return (*floats, *(x.to(device) for x in (tokens, parents, laws)))


def law_of(target):
    return lambda tree, node: target(tuple(tree.path_tokens(node)))


def prove(op, tree, target, vocab, device="cpu"):
    """Total variation between what the op emits for one tree and what `verify.traversal` does.

    Every outcome of the rule is one of its tests, each below or above its threshold. The op is run
    on numbers just below and just above each of them: it must take the same path, and leave the
    same law for the token that follows. So its thresholds are the rule's own to 1e-9.
    """

    class Scripted:
        """Notes each threshold, and a number on the side that the script says."""

        def __init__(self, choices, tests):
            self.choices, self.tests = choices, tests

        def __lt__(self, threshold):
            below = self.choices.pick((threshold, 1.0 - threshold)) == 0
            self.tests.append(threshold * (1 - 1e-9) if below else threshold * (1 + 1e-9))
            return below

    def program(choices):
        tests, seen = [], []

        def draw(probs):
            seen.append(probs.clone())
            return 0

        def law(node):
            return target(tuple(tree.path_tokens(node)))

        verdict = traversal(tree, law, lambda: Scripted(choices, tests), draw)
        return verdict.path, tests, seen[0]

    cases = list(outcomes(program))
    inputs = batch([tree] * len(cases), law_of(target), vocab, device=device)
    tests = torch.full((len(cases), max(1, len(tree) - 1)), NEVER, dtype=torch.float64)
    for b, (_, (_, numbers, _)) in enumerate(cases):
        tests[b, : len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    paths, used = op(*inputs, tests.to(device))
    wrong = 0.0
    for b, (probability, (path, numbers, law)) in enumerate(cases):
        assert [node for node in paths[b].tolist() if node >= 0] == path
        assert int(used[b]) == len(numbers)
        left = inputs[0][b, path[-1]].cpu()
        unlike = (left - law).abs().masked_fill(left.isnan() & law.isnan(), 0.0)
        wrong += probability * unlike.sum().item() / 2
    assert abs(sum(p for p, _ in cases) - 1.0) < 1e-9
    return wrong
