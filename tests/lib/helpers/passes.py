"""Rows and trees for passes through a store, and what a stock model says after any text."""

from __future__ import annotations

import copy
import random

import torch

from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import models


def make_row(index: int, prompt: list[int], prompt_index: int | None = None, new: int = 100) -> Row:
    """A greedy row that may grow by `new` tokens, for which its store has room."""
    sampler = Sampler([], False, Noise(0))
    place = index if prompt_index is None else prompt_index
    return Row(index, place, list(prompt), len(prompt), len(prompt) + new, sampler, len(prompt))


def random_tree(rng: random.Random, root: int, nodes: int, chain: bool = False) -> TokenTree:
    tree = TokenTree.root(root)
    while len(tree) < nodes:
        parent = len(tree) - 1 if chain else rng.randrange(len(tree))
        tree.add(parent, rng.randrange(models.VOCAB))
    return tree


class Oracle:
    """Logits after a text, by a stock eager forward over all of it, without any cache.

    Others are near in float64 up to the softmax, which eager takes in float32; in float32 up to a
    small factor of what the stock model itself makes wrong there.
    """

    def __init__(self, model):
        self.model = copy.deepcopy(model)
        self.exact = copy.deepcopy(model).double() if model.dtype == torch.float32 else None

    @torch.inference_mode()
    def after(self, tokens: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]

    def check(self, row: Row, tree: TokenTree, logits: torch.Tensor) -> None:
        for node in range(len(tree)):
            self.close(logits[node], row.tokens + tree.path_tokens(node))

    @torch.inference_mode()
    def close(self, logits: torch.Tensor, tokens: list[int]) -> None:
        """Fail unless `logits` are those after `tokens`."""
        stock = self.after(tokens)
        if self.exact is None:
            torch.testing.assert_close(logits, stock, rtol=1e-5, atol=1e-5)
            return
        exact = self.exact(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        error = (stock.double() - exact).abs().max().item()
        allowed = 4 * error + 8 * torch.finfo(torch.float32).eps * exact.abs().max().item()
        assert (logits.double() - exact).abs().max().item() <= allowed


def take_up(row: Row, tree: TokenTree, node: int, bonus: int) -> None:
    row.tokens.extend([*tree.path_tokens(node), bonus])
    row.num_final = len(row.tokens)


def poison(cached, rows):
    """What lies behind what is committed and staged may be anything."""
    staged = {row.index: len(cached.text.held[row.index].slots) for row in rows}
    for level in cached.store.levels[cached.store.num_shared :]:
        for buffer in (*level.k, *level.v):
            if buffer is not None:
                for row, length in enumerate(level.length.tolist()):
                    buffer[row, :, length + staged.get(row, 0) :] = torch.nan


def same_passes(models_, rounds=4, new=100):
    """Trees, growth and rows that drop out, the same for several models; logits are compared."""
    rng = random.Random(3)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 8]]
    everyone = [[make_row(i, p, new=new) for i, p in enumerate(prompts)] for _ in models_]
    cached = [
        CachedModel(t, FullView(), rows, recorder=QueryRecorder(verified=True))
        for t, rows in zip(models_, everyone)
    ]
    for turn in range(rounds * 2):
        active = [rows if turn % 4 < 3 else rows[1:] for rows in everyone]
        trees = [random_tree(rng, row.tokens[-1], 1 + turn % 3 + row.index) for row in active[0]]
        for model, rows in zip(cached, everyone):
            poison(model, rows)
        first = [model.forward(rows, trees) for model, rows in zip(cached, active)]
        grown = [[rng.randrange(len(tree))] for tree in trees]
        tokens = [[rng.randrange(models.VOCAB)] for _ in trees]
        noted = [{k: q.clone() for k, q in x.recorder.passes.items()} for x in cached]
        assert noted[0].keys() == noted[1].keys()
        assert all(torch.equal(q, noted[1][k]) for k, q in noted[0].items()), "queries kept"
        second = []
        for model, rows in zip(cached, active):
            parents = [
                [model.root_slot(row) + node for node in nodes] for row, nodes in zip(rows, grown)
            ]
            second.append(model.grow(rows, tokens, parents)[1])
        yield active[0], trees, first, grown, tokens, second
        nodes = [rng.randrange(len(tree)) for tree in trees]
        bonus = [rng.randrange(models.VOCAB) for _ in trees]
        for rows in active:
            for row, tree, node, token in zip(rows, trees, nodes, bonus):
                take_up(row, tree, node, token)
