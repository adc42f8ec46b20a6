"""When to select anew, and where sentences end, by their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec.sparse.maths.sentences import is_end, sentence_ends, sentence_starts
from specdec.sparse.triggers.query_turn import likeness, turn_threshold


def test_a_query_that_turns():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(3, 12, 5))
    unit = q / np.linalg.norm(q, axis=-1, keepdims=True)
    want = [(unit[:, t - 1] * unit[:, t]).sum(-1).mean() for t in range(1, 12)]
    got = likeness(torch.from_numpy(q[:, 0]), torch.from_numpy(q[:, 1:]))
    np.testing.assert_allclose(got, want)
    assert turn_threshold(torch.from_numpy(q)) == pytest.approx(np.quantile(want, 0.2))
    assert turn_threshold(torch.from_numpy(q[:, :1])) == 1.0  # nothing known: every step selects


@pytest.mark.parametrize(
    ("text", "ends"),
    [(".", True), (" yes.", True), ("?\u201d", True), ("\u3002", True), ("\n\n", True),
     ("\n", False), (" a", False), ("", False), (")", False), ("...", True)],
)  # fmt: skip
def test_sentence_marks(text, ends):
    assert is_end(text) == ends


def test_sentences():
    class Letters:
        def get_vocab(self):
            return {"a": 0, ".": 1, "!\n": 2}

        def batch_decode(self, ids):
            return ["a.!"[i] for (i,) in ids]

    ends = sentence_ends(Letters())
    assert ends == {1, 2}
    assert sentence_starts([0, 0, 1, 0, 2, 2, 0], ends) == [0, 3, 5, 6]
    assert sentence_starts([0, 1], ends) == [0]  # the next one has not begun
    assert sentence_starts([], ends) == []
