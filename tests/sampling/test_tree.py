"""TokenTree and the ancestor bitmasks, against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sampling.tree import WORD, Law, TokenTree, ancestor_words

pytestmark = pytest.mark.fast


def parent_lists(max_nodes: int) -> st.SearchStrategy[list[int]]:
    """Topologically ordered parents, of chains, stars and all between."""
    reach = st.integers(0, 10**6)
    return st.lists(reach, max_size=max_nodes - 1).map(
        lambda numbers: [-1, *(n % (i + 1) for i, n in enumerate(numbers))]
    )


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 14, laws: tuple[Law, ...] = tuple(Law)) -> TokenTree:
    """A tree made with `add`, over few tokens so that siblings often merge."""
    tree = TokenTree.root(0)
    for parent in draw(parent_lists(max_nodes))[1:]:
        law = draw(st.sampled_from(laws))
        node = tree.add(
            parent % len(tree), draw(st.integers(0, 2)), law, draw(st.sampled_from("ab"))
        )
        assert 0 < node < len(tree)
    for node, below in enumerate(tree.children()):
        if any(tree.laws[c] is not Law.POINT for c in below):
            tree.draft_probs[node] = torch.tensor([0.5, 0.25, 0.25])
    return tree


def is_well_formed(tree: TokenTree) -> bool:
    sizes = {len(tree), len(tree.parents), len(tree.laws), len(tree.proposers)}
    ordered = all(0 <= parent < node for node, parent in enumerate(tree.parents[1:], start=1))
    lawful = all(
        tree.laws[node] is Law.POINT or tree.parents[node] in tree.draft_probs
        for node in range(1, len(tree))
    )
    return len(sizes) == 1 and tree.parents[0] == -1 and ordered and lawful


def paths(tree: TokenTree) -> set[tuple[int, ...]]:
    return {tuple(tree.path_tokens(node)) for node in range(len(tree))}


@given(trees())
def test_children_depths_paths_and_child_agree(tree: TokenTree):
    children, depths = tree.children(), tree.depths()
    assert is_well_formed(tree) and tree.num_draft_tokens == len(tree) - 1
    assert sorted(sum(children, [])) == list(range(1, len(tree)))
    for node in range(len(tree)):
        path = tree.path(node)
        assert path[0] == 0 and path[-1] == node and len(path) == depths[node] + 1
        assert all(below in children[above] for above, below in zip(path, path[1:], strict=False))
        assert tree.path_tokens(node) == [tree.tokens[i] for i in path[1:]]
        assert children[node] == sorted(children[node])
        for token in range(3):
            first = next((c for c in children[node] if tree.tokens[c] == token), None)
            assert tree.child(node, token) == first
    assert tree.is_sampled == any(law is not Law.POINT for law in tree.laws)


@given(trees())
def test_only_iid_siblings_repeat_a_token(tree: TokenTree):
    for below in tree.children():
        seen: set[int] = set()
        for child in below:
            assert tree.tokens[child] not in seen or tree.laws[child] is Law.IID
            seen.add(tree.tokens[child])


@given(trees(), st.integers(0, 2))
def test_adding_a_token_twice_returns_the_node_unchanged(tree: TokenTree, token: int):
    first = tree.add(0, token, Law.POINT, "first")
    size, proposer, law = len(tree), tree.proposers[first], tree.laws[first]
    assert tree.add(0, token, Law.DRAW, "second") == first
    assert (len(tree), tree.proposers[first], tree.laws[first]) == (size, proposer, law)
    assert tree.add(0, token, Law.IID, "third") == size


@given(st.lists(st.integers(0, 9), max_size=9))
def test_chain(tokens: list[int]):
    chain = TokenTree.chain(7, tokens, "x")
    assert chain.tokens == [7, *tokens] and chain.depths() == list(range(len(tokens) + 1))
    assert chain.proposers == [""] + ["x"] * len(tokens) and not chain.is_sampled


@given(trees(), trees())
def test_graft_holds_all_paths_and_leaves_the_first_tree_as_it_was(
    one: TokenTree, other: TokenTree
):
    before, expected, size = list(one.tokens), paths(one) | paths(other), len(one)
    one.graft(other)
    assert is_well_formed(one) and one.tokens[:size] == before
    assert paths(one) == expected


@given(trees(laws=(Law.POINT,)))
def test_graft_of_the_same_tree_changes_nothing(tree: TokenTree):
    size = len(tree)
    tree.graft(tree.cropped(size, size))
    assert len(tree) == size


def test_graft_leaves_out_children_drawn_from_another_law():
    one, other = TokenTree.root(0), TokenTree.root(0)
    one.add(one.add(0, 1, Law.DRAW), 1)
    one.draft_probs[0] = torch.tensor([0.5, 0.5, 0.0])
    other.add(other.add(0, 2, Law.DRAW), 1)  # left out, with what is below
    other.draft_probs[0] = torch.tensor([0.0, 0.5, 0.5])
    other.add(other.add(0, 0), 2, Law.DRAW)  # a rule's token stays, and so does a draw below it
    other.draft_probs[3] = torch.tensor([0.0, 0.0, 1.0])
    one.graft(other)
    assert paths(one) == {(), (1,), (1, 1), (0,), (0, 2)}
    assert one.draft_probs[0][0] == 0.5 and is_well_formed(one)


@given(trees(), st.integers(1, 15), st.integers(0, 6))
def test_cropped_is_the_first_nodes_that_are_not_too_deep(tree: TokenTree, nodes: int, depth: int):
    depths, size = tree.depths(), len(tree)
    kept = [node for node in range(size) if depths[node] <= depth][:nodes]
    cropped = tree.cropped(nodes, depth)
    assert is_well_formed(cropped) and len(tree) == size
    assert [tuple(cropped.path_tokens(i)) for i in range(len(cropped))] == [
        tuple(tree.path_tokens(node)) for node in kept
    ]
    assert cropped.laws == [tree.laws[node] for node in kept]
    assert cropped.proposers == [tree.proposers[node] for node in kept]
    for place, node in enumerate(kept):
        assert (place in cropped.draft_probs) == (node in tree.draft_probs)
        assert cropped.draft_probs.get(place) is tree.draft_probs.get(node)


@given(st.lists(parent_lists(130), min_size=1, max_size=3), st.integers(0, 5))
def test_ancestor_words(parents: list[list[int]], padding: int):
    width = max(map(len, parents)) + padding
    words = ancestor_words(parents, width)
    assert words.dtype == torch.int64 and words.shape == (len(parents), width, -(-width // WORD))
    bits = (words[..., None] >> torch.arange(WORD) & 1).flatten(2)
    for row, tree in enumerate(parents):
        for node in range(width):
            ancestors, above = {node}, tree[node] if node < len(tree) else -1
            while above >= 0:
                ancestors.add(above)
                above = tree[above]
            assert set(bits[row, node].nonzero().flatten().tolist()) == ancestors


@pytest.mark.parametrize("width", [1, 63, 64, 65, 128, 129, 130])
def test_ancestor_words_of_a_chain_fill_up(width: int):
    words = ancestor_words([list(range(-1, width - 1))], width)[0]
    full = [2**64 - 1] * (width // WORD) + [2 ** (width % WORD) - 1] * (width % WORD > 0)
    assert [word % 2**64 for word in words[-1].tolist()] == full
