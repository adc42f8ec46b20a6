"""The coupled walk, proven for all noise, and verdicts: paths, final tokens, nodes without mass."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from specdec.sampling.noise import Noise
from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import traversal, walk

from helpers.enumeration import (
    EXACT,
    Choices,
    Context,
    Tables,
    bias,
    distance,
    grown,
    mean_accepted,
    outcomes,
    shapes,
    verdicts,
)
from helpers.rules import recursive_rejection, walk_by_draws

pytestmark = pytest.mark.fast


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
