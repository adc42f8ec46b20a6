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
from enumeration import (
    EXACT,
    KINDS,
    Choices,
    Context,
    Tables,
    add_child,
    bias,
    distance,
    grow,
    mean_accepted,
    outcomes,
    shapes,
    verdicts,
)
from rules import block_acceptance, recursive_rejection, walk_by_draws

from specdec.noise import Noise
from specdec.tree import Law, TokenTree
from specdec.verify import traversal, walk

DRAWN = ("draw", "repeat", "iid")


def grown(shape, how, draft):
    how = [how] * (len(shape) - 1) if isinstance(how, str) else how
    return list(outcomes(lambda choices: grow(choices, shape, how, draft)))


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


# walk


@pytest.mark.parametrize("kind", ["dense", "zeros", "certain target"])
def test_walk_with_drawn_choices_is_exact_for_deterministic_trees(kind):
    for vocab, nodes in [(2, 6), (3, 6), (4, 4)]:
        tables = Tables(vocab, 1, kind)
        for shape in shapes(nodes):
            trees = grown(shape, "point", tables.draft)
            assert bias(trees, tables.target, walk_by_draws) < EXACT
            both = [
                mean_accepted(trees, tables.target, r) for r in (walk_by_draws, recursive_rejection)
            ]
            assert both[0] == pytest.approx(both[1], abs=EXACT)


@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3)])
@pytest.mark.parametrize("width", [0, 1, 2])
def test_coupled_walk_emits_what_plain_decoding_emits_for_all_noise(vocab, length, width):
    """Finite noise: one number a position, on the common refinement of all inverse-CDF steps."""
    tables = Tables(vocab, 4)
    steps = [breakpoints(tables, position) for position in range(length)]

    def program(choices: Choices) -> tuple[int, ...]:
        noise = [(at := steps[t])[choices.pick(np.diff(at))] for t in range(length)]
        plain: list[int] = []
        while len(plain) < length:
            plain.append(inverse(tables.target(tuple(plain)), noise[len(plain)]))
        text: list[int] = []
        while len(text) < length:
            tree = coupled_tree(tables, text, noise, width)
            contexts = [(*text, *tree.path_tokens(node)) for node in range(len(tree))]
            verdict = walk(
                tree, lambda node, c=contexts: inverse(tables.target(c[node]), noise[len(c[node])])
            )
            text += verdict.tokens
        assert text == plain
        return tuple(text)

    assert distance(outcomes(program), tables.target, length) < EXACT


def breakpoints(tables: Tables, position: int) -> np.ndarray:
    """0, all places where a law of this position steps to another token, and 1."""
    steps = {0.0, 1.0}
    for context in product(range(tables.vocab), repeat=position):
        for law in (tables.target(context), tables.draft(context)):
            steps.update(law.cumsum(0)[:-1].tolist())
    return np.array(sorted(steps))


def inverse(law: torch.Tensor, noise: float) -> int:
    """The token whose cell of the cumulative law starts at or before `noise`."""
    return int((law.cumsum(0)[:-1] <= noise).sum())


def coupled_tree(tables: Tables, text: list[int], noise: list[float], width: int) -> TokenTree:
    """`width` children a node, on the first path: the drafter's own choice, then any other."""
    tree, node = TokenTree.root(0), 0
    while len(text) + len(tree.path(node)) < len(noise) and width:
        context = (*text, *tree.path_tokens(node))
        token = inverse(tables.draft(context), noise[len(context)])
        below = tree.add(node, token)
        if width > 1:
            tree.add(node, (token + 1) % tables.vocab)
        node = below
    return tree


def test_coupled_walk_with_gumbel_noise_emits_what_plain_decoding_emits():
    tables, length = Tables(4, 8), 12

    def choose(law: torch.Tensor, noise: Noise, position: int) -> int:
        return int((law.log() + noise.target(position, 4, "cpu")).argmax())

    for seed in range(20):
        noise = Noise(seed)
        plain: list[int] = []
        while len(plain) < length:
            plain.append(choose(tables.target(tuple(plain)), noise, len(plain)))
        text: list[int] = []
        while len(text) < length:
            tree = TokenTree.root(0)
            for node in range(min(seed % 4, length - len(text) - 1)):
                context = (*text, *tree.tokens[1:])
                tree.add(node, choose(tables.draft(context), noise, len(context)))
            contexts = [(*text, *tree.path_tokens(node)) for node in range(len(tree))]
            laws = [tables.target(context) for context in contexts]
            text += walk(
                tree,
                lambda node, c=contexts, p=laws, noise=noise: choose(p[node], noise, len(c[node])),
            ).tokens
        assert text == plain


# The end of a sequence


@pytest.mark.parametrize("rule", [traversal, walk_by_draws, recursive_rejection])
def test_verdicts_are_paths_and_their_tokens(rule):
    tables = Tables(3, 9)
    how = "point" if rule is walk_by_draws else "draw"
    for p, tree in grown((-1, 0, 0, 1, 1), how, tables.draft):
        for _, verdict in verdicts([(p, tree)], tables.target, rule):
            assert verdict.path == tree.path(verdict.path[-1])
            assert verdict.tokens[:-1] == tree.path_tokens(verdict.path[-1])
            assert verdict.num_accepted == len(verdict.tokens) - 1 and not verdict.is_final


@pytest.mark.parametrize(
    ("rule", "how"), [(traversal, "draw"), (traversal, "point"), (walk, "point")]
)
def test_nothing_is_emitted_past_a_final_token(rule, how):
    """With an end token, sequences that stop are as probable as in plain decoding."""
    tables, end = Tables(3, 10), 2

    def target(context: Context) -> torch.Tensor:
        return torch.eye(3, dtype=torch.float64)[end] if end in context else tables.target(context)

    def stopping(tree, law, uniform, draw):
        asked: list[int] = []

        def is_final(token: int) -> bool:
            asked.append(token)
            return token == end

        if rule is walk:
            verdict = walk(tree, lambda node: draw(law(node)), is_final)
        else:
            verdict = traversal(tree, law, uniform, draw, is_final)
        assert asked == verdict.tokens  # once for each, in order
        assert verdict.is_final == (verdict.tokens[-1] == end) and end not in verdict.tokens[:-1]
        assert [tree.tokens[i] for i in verdict.path[1:]] == verdict.tokens[: verdict.num_accepted]
        assert verdict.num_accepted >= len(verdict.tokens) - 1
        return verdict

    for shape in shapes(5):
        assert bias(grown(shape, how, tables.draft), target, stopping) < EXACT


def test_a_node_without_mass_left_costs_nothing():
    """A drafter may draw more children than its law has tokens: the rest are never accepted."""
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double()
    tree = TokenTree([0, 0, 1], [-1, 0, 0], [Law.POINT, Law.DRAW, Law.DRAW], [""] * 3, {0: q})
    assert (
        distance(
            ((w, v.tokens) for w, v in verdicts([(1.0, tree)], lambda context: p)),
            lambda context: p,
            2,
        )
        < EXACT
    )
