"""A pass that fails half-way leaves rows and store as they were: the same pass can follow."""

from __future__ import annotations

import random

import pytest
import torch

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.prefill import SLACK
from specdec.forward.attend import attend
from specdec.forward.full_view import FullView
from specdec.forward.static_inputs import padded
from specdec.model.target import Target
from specdec.sampling.tree import MAX_NODES

from helpers import models
from helpers.passes import Oracle, make_row, random_tree, take_up

pytestmark = pytest.mark.fast


class Fails:
    """Attention that fails at one of the calls to come."""

    left = -1

    def attend(self, pass_, call):
        self.left -= 1
        if self.left == 0:
            raise MemoryError
        return attend(pass_, call)


@torch.inference_mode()
def test_the_same_pass_after_one_that_failed(monkeypatch):
    """Trees, growth, and long chunks of text of which a part has been committed."""
    monkeypatch.setattr("specdec.model.chunks.PREFILL_CHUNK", 48)
    model = models.build("llama")
    oracle, fails, rng = Oracle(model), Fails(), random.Random(1)
    monkeypatch.setattr("specdec.forward.attention.attend", fails.attend)
    target, row = Target(model), make_row(0, [1, 2, 3, 4, 5])
    cached = CachedModel(target, FullView(), [row])
    for turn in range(6):
        tree = random_tree(rng, row.tokens[-1], 5)
        for fails.left in (1, 2, 3, 4):
            try:
                cached.forward([row], [tree])
            except MemoryError:
                continue
        fails.left = -1
        oracle.check(row, tree, cached.forward([row], [tree])[0])
        slot = cached.root_slot(row)
        fails.left = 2
        with pytest.raises(MemoryError):
            cached.grow([row], [[7]], [[slot]])
        fails.left = -1
        _, logits = cached.grow([row], [[7]], [[slot]])
        want = oracle.after([*row.tokens, 7])
        torch.testing.assert_close(logits[0, 0], want, rtol=2e-4, atol=2e-4)
        if turn == 3:  # a drafter that was not asked for a long time
            row.tokens += [rng.randrange(models.VOCAB) for _ in range(120)]
            row.num_final = len(row.tokens)
        else:
            take_up(row, tree, rng.randrange(5), 9)


def test_the_widest_drafts_find_room():
    """As wide and as deep as options allow; `SLACK` is made for them."""
    model = models.build("llama", max_position_embeddings=1024)
    engine, draft = Engine(model), models.disturbed(model, 0.02)
    want = engine.generate([1, 2, 3], drafter="none", max_new_tokens=12).token_ids
    for width, depth in ((255, 4), (10, 255), (1, 255), (3, 255)):
        out = engine.generate(
            [1, 2, 3], drafter="model", draft_model=draft, draft_width=width,
            num_draft_tokens=depth, max_new_tokens=12,
        )  # fmt: skip
        assert out.token_ids == want
    for width in range(1, MAX_NODES):
        passes, rest = divmod(MAX_NODES, width)
        assert passes * padded(width) + padded(rest) <= 2 * MAX_NODES <= SLACK
