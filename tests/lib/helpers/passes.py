"""Rows and trees for passes through a store, and what a stock model says after any text."""

from __future__ import annotations

import copy
import random

import torch

from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import models


def make_row(index: int, prompt: list[int], prompt_index: int | None = None) -> Row:
    sampler = Sampler([], False, Noise(0))
    place = index if prompt_index is None else prompt_index
    return Row(index, place, list(prompt), len(prompt), len(prompt) + 100, sampler, len(prompt))


def random_tree(rng: random.Random, root: int, nodes: int, chain: bool = False) -> TokenTree:
    tree = TokenTree.root(root)
    while len(tree) < nodes:
        parent = len(tree) - 1 if chain else rng.randrange(len(tree))
        tree.add(parent, rng.randrange(models.VOCAB))
    return tree


class Oracle:
    """Logits after a text, by a stock eager forward over all of it, without any cache."""

    def __init__(self, model):
        self.model = copy.deepcopy(model)

    @torch.inference_mode()
    def after(self, tokens: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]

    def check(self, row: Row, tree: TokenTree, logits: torch.Tensor) -> None:
        tolerance = {"rtol": 1e-5, "atol": 1e-5}  # eager takes its softmax in float32
        if logits.dtype == torch.float32:
            tolerance = {"rtol": 2e-4, "atol": 2e-4}
        for node in range(len(tree)):
            want = self.after(row.tokens + tree.path_tokens(node))
            torch.testing.assert_close(logits[node], want, **tolerance)


def take_up(row: Row, tree: TokenTree, node: int, bonus: int) -> None:
    row.tokens.extend([*tree.path_tokens(node), bonus])
    row.stable = len(row.tokens)
