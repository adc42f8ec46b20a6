"""What a method selects in a model, beside what transformers says of the same text."""

from __future__ import annotations

import copy

import numpy as np
import torch

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.sampling.tree import TokenTree
from specdec.sparse.calibrations.calibration import Calibration
from specdec.sparse.fingerprint import fingerprint

from helpers import models
from helpers.passes import make_row

TEXT = [(7 * i * i + 3) % 40 for i in range(120)]
S = len(TEXT) - 1  # what is committed when the first draft begins


class Run:
    """A model, its maps of a text, and what a method selects in its first draft of it."""

    def __init__(self, name):
        model = models.build(name, dtype=torch.float64)
        plain = copy.deepcopy(model)
        plain.set_attn_implementation("eager")
        with torch.no_grad():
            out = plain(torch.tensor([TEXT[:S]]), output_attentions=True, use_cache=True)
        self.target = Engine(model).target
        self.layers = range(self.target.num_layers)
        self.heads = self.target.kv_shape.kv_heads
        self.maps = [a[0].numpy().reshape(self.heads, -1, S, S) for a in out.attentions]
        self.v = [layer.values[0].numpy() for layer in out.past_key_values.layers]
        self.k = [layer.keys[0].numpy() for layer in out.past_key_values.layers]

    def select(self, method):
        """The selection of each layer."""
        view = method.view(self.target)
        row = make_row(0, TEXT)
        recorder = QueryRecorder.of(view.needs)
        base = CachedModel(self.target, FullView(), [row], recorder=recorder)
        draft = CachedModel(self.target, view, [row], base=base)
        draft.forward([row], [TokenTree.root(TEXT[-1])])
        return dict(draft.state.of(0).selections)

    def read(self, chosen):
        """The tokens that each head reads, of one layer's selection."""
        size = chosen.page_size
        return [
            {p * size + i for p in row if p >= 0 for i in range(size)}
            for row in chosen.pages.tolist()
        ]

    def measured(self, method, **numbers):
        """A calibration with such numbers in every layer."""
        layers = tuple({key: of(n) for key, of in numbers.items()} for n in self.layers)
        return Calibration(method, fingerprint(self.target), "", layers)


def best(score, count, first=0, last=0):
    """The first, the last, and the best of the others, `count` in all."""
    forced = score.copy()
    forced[:first] = forced[len(score) - last :] = np.inf
    return set(np.argsort(-forced, kind="stable")[:count].tolist())
