"""Losslessness, proven by enumeration: the joint law of what is emitted is the target's.

Every tree shape, every outcome of the drafts and every outcome of the tests, in float64. What must
fail the same proof stands in test_mutants.py.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from specdec.sampling.tree import TokenTree

from helpers.enumeration import (
    EXACT,
    KINDS,
    Choices,
    Context,
    Tables,
    add_child,
    bias,
    grow,
    grown,
    mean_accepted,
    outcomes,
    shapes,
    verdicts,
)
from helpers.rules import block_acceptance, recursive_rejection

DRAWN = ("draw", "repeat", "iid")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("vocab", "nodes"), [(2, 6), (3, 4), (4, 4)])
def test_traversal_is_exact_on_all_shapes(vocab, nodes, kind):
    for seed, (n, how) in enumerate(product(range(1, nodes + 1), DRAWN)):
        tables = Tables(vocab, seed, kind)
        for shape in shapes(n):
            assert bias(grown(shape, how, tables.draft), tables.target) < EXACT, (shape, how)


@pytest.mark.parametrize("how", DRAWN)
def test_traversal_is_exact_on_wide_vocabularies_and_deep_trees(how):
    tables = Tables(3, 11)
    for shape in shapes(5) + shapes(6)[::5]:
        assert bias(grown(shape, how, tables.draft), tables.target) < EXACT, shape


@pytest.mark.parametrize(("vocab", "kind"), [(2, "dense"), (3, "dense"), (3, "zeros")])
def test_traversal_is_exact_for_any_mixture_of_laws_below_one_node(vocab, kind):
    """Rule-made, drawn, merged and i.i.d. children in every order; some merge with a sibling."""
    tables = Tables(vocab, 3, kind)
    for shape in shapes(3) + shapes(4):
        for how in product(("point", *DRAWN), repeat=len(shape) - 1):
            trees = grown(shape, how, tables.draft)
            assert bias(trees, tables.target, length=3) < EXACT, (shape, how)


@pytest.mark.parametrize(
    ("first", "second"), [*product(["point"], DRAWN), *product(DRAWN, ["point"])]
)
def test_traversal_is_exact_for_grafted_trees(first, second):
    tables = Tables(3, 5)

    def graft(choices: Choices, one: Context, other: Context) -> TokenTree:
        tree = grow(choices, one, [first] * (len(one) - 1), tables.draft)
        tree.graft(grow(choices, other, [second] * (len(other) - 1), tables.draft))
        return tree

    for one, other in product(shapes(3), shapes(4)):
        trees = list(outcomes(partial(graft, one=one, other=other)))
        assert bias(trees, tables.target, length=3) < EXACT, (one, other)


def test_traversal_is_exact_for_trees_of_two_samplers():
    """The second law loses its children where the first drew, and only there."""
    tables = Tables(3, 6)

    def graft(choices: Choices, one: Context, other: Context) -> TokenTree:
        tree = grow(choices, one, ["draw"] * (len(one) - 1), tables.draft)
        tree.graft(grow(choices, other, ["draw"] * (len(other) - 1), tables.middle))
        return tree

    for one, other in product(shapes(2) + shapes(3), shapes(3) + shapes(4)):
        trees = list(outcomes(partial(graft, one=one, other=other)))
        assert bias(trees, tables.target, length=3) < EXACT, (one, other)


def test_traversal_in_float32_is_as_exact_as_float32():
    tables = Tables(3, 2)
    for shape in shapes(4):
        trees = grown(shape, "draw", lambda context: tables.draft(context).float())
        assert bias(trees, lambda context: tables.target(context).float()) < 1e-6


# Adaptive growth: a tree may depend on tokens drawn earlier, but a node's being there may not
# depend on its own token.


def larger_first(choices: Choices, tables: Tables) -> TokenTree:
    """Two children; the one the drafter likes better is expanded, the other is left a leaf."""
    tree = TokenTree.root(0)
    children = [add_child(choices, tree, 0, "draw", tables.draft) for _ in range(2)]
    likely = max(
        (c for c in children if c), key=lambda c: float(tree.draft_probs[0][tree.tokens[c]])
    )
    for _ in range(2):
        add_child(choices, tree, likely, "draw", tables.draft)
    return tree


def by_path_probability(choices: Choices, tables: Tables) -> TokenTree:
    """The probability of the path down to a node decides how many children it gets, if any."""
    tree = TokenTree.root(0)
    value, node = {0: 1.0}, 0
    while node < len(tree) and len(tree) < 6:
        for _ in range(2 if value[node] > 0.4 else int(value[node] > 0.15)):
            child = add_child(choices, tree, node, "draw", tables.draft)
            if child is not None:
                value[child] = value[node] * float(tree.draft_probs[node][tree.tokens[child]])
        node += 1
    return tree


def best_first(choices: Choices, tables: Tables) -> TokenTree:
    """Always one more child for the node whose children so far leave most probability over."""
    tree = TokenTree.root(0)
    left = {0: 1.0}
    while len(tree) < 5 and max(left.values()) > 0.0:
        node = max(left, key=lambda node: left[node])
        child = add_child(choices, tree, node, "draw", tables.draft)
        if child is None:
            left[node] = 0.0
            continue
        left[child] = left[node] * float(tree.draft_probs[node][tree.tokens[child]])
        left[node] -= left[child]
    return tree


def cropped(choices: Choices, tables: Tables) -> TokenTree:
    """Limits on nodes and depth, where merging makes the place of later nodes random."""
    tree = grow(choices, (-1, 0, 0, 1, 2, 4), ["point", *["repeat"] * 4], tables.draft)
    return tree.cropped(max_nodes=4, max_depth=2)


@pytest.mark.parametrize("program", [larger_first, by_path_probability, best_first, cropped])
@pytest.mark.parametrize(
    ("vocab", "kind"), [(2, "dense"), (3, "dense"), (3, "zeros"), (4, "dense")]
)
def test_traversal_is_exact_for_trees_that_grow_by_what_was_drawn(program, vocab, kind):
    for seed in range(3):
        tables = Tables(vocab, seed, kind)
        trees = list(outcomes(partial(program, tables=tables)))
        assert bias(trees, tables.target, length=3) < EXACT


# How much is accepted.


@pytest.mark.parametrize("kind", ["dense", "zeros", "equal"])
def test_traversal_of_a_chain_is_block_verification(kind):
    for depth, seed in product(range(1, 5), range(3)):
        tables = Tables(3, seed, kind)
        trees = grown(tuple(range(-1, depth)), "draw", tables.draft)
        for p, tree in trees:
            contexts = [tuple(tree.path_tokens(node)) for node in range(depth + 1)]
            draft = torch.stack([tables.draft(c) for c in contexts])
            target = torch.stack([tables.target(c) for c in contexts])
            expected = block_acceptance(draft, target, tree.tokens[1:])
            kept = np.zeros(depth + 1)
            for q, verdict in verdicts([(p, tree)], tables.target):
                kept[verdict.num_accepted] += q / p
            np.testing.assert_allclose(kept, expected, atol=EXACT)
        block = mean_accepted(trees, tables.target)
        by_token = mean_accepted(trees, tables.target, recursive_rejection)
        assert (
            block == pytest.approx(by_token, abs=EXACT) if depth == 1 else block > by_token - EXACT
        )


def heights(shape: Context) -> list[int]:
    height = [0] * len(shape)
    for node in range(len(shape) - 1, 0, -1):
        height[shape[node]] = max(height[shape[node]], height[node] + 1)
    return height


@pytest.mark.parametrize(("vocab", "nodes"), [(2, 6), (3, 5)])
def test_traversal_accepts_no_less_than_recursive_rejection(vocab, nodes):
    """Where no child has a taller subtree than its elder siblings; else it may accept less."""
    gains = []
    for seed, how in product(range(2), ("draw", "iid")):
        tables = Tables(vocab, seed)
        for shape in shapes(nodes):
            height = heights(shape)
            siblings = [
                (i, j) for j in range(1, nodes) for i in range(1, j) if shape[i] == shape[j]
            ]
            if any(height[i] < height[j] for i, j in siblings):
                continue
            trees = grown(shape, how, tables.draft)
            recursive = mean_accepted(trees, tables.target, recursive_rejection)
            gains.append(mean_accepted(trees, tables.target) - recursive)
    assert min(gains) > -EXACT and max(gains) > 0.1
