"""Topics of a text: found where they are, and a question finds its own."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.maths.episodes import Episodes, embedded


@given(st.integers(0, 1 << 20), st.integers(1, 4))
def test_pieces_of_a_topic_are_together_and_the_nearest_speak_for_it(seed, topics):
    rng = np.random.default_rng(seed)
    centres = np.eye(8)[:topics]
    kind = np.arange(topics * 6) % topics
    pieces = centres[kind] + 0.05 * rng.normal(size=(len(kind), 8))
    pieces /= np.linalg.norm(pieces, axis=1, keepdims=True)
    found = Episodes.found_in(torch.from_numpy(pieces), topics, 2)
    assert len({(a, b) for a, b in zip(kind.tolist(), found.of.tolist(), strict=True)}) == topics
    for topic in range(topics):
        e = found.nearest(torch.from_numpy(centres[topic]))
        own = np.flatnonzero(kind == topic)
        mean = pieces[own].mean(0)
        want = own[np.argsort(-(pieces[own] @ mean), kind="stable")[:2]]
        assert list(found.medoids[e]) == want.tolist()


def test_a_piece_is_the_mean_of_its_words():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(embedded(x), x.mean(0) / x.mean(0).norm())
