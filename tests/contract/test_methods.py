"""The contract of every method of the registry, which a new one signs by being there.

Whatever it leaves out, its drafts never change the text; nothing comes of what was rejected; and
with a budget of everything it is the full view. In float64: see `test_contract`.
"""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest
import torch

from specdec import Engine
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes

from helpers import hostile, models
from helpers.contract import outcome
from helpers.matrix import crossed
from helpers.methods import (
    METHODS,
    as_a_tree,
    everything,
    leaves_out,
    logits_of_passes,
    smallest,
    text_under_poison,
)

# Grouped queries; norms of queries and keys; windows in some layers; a key head for each query's.
SLIDING, FULL = "sliding_attention", "full_attention"
MODELS = {
    "llama": {},
    "qwen3": {},
    "gemma3": {"num_hidden_layers": 4, "layer_types": [SLIDING, FULL] * 2},
    "llama-mha": {},
}
RNG = random.Random(0)
PROMPTS = [[RNG.randrange(models.VOCAB) for _ in range(n)] for n in (110, 95, 5)]
BATCHES = {
    "one": {"prompt": PROMPTS[0]},
    "ragged": {"prompt": PROMPTS},
    "forked": {"prompt": PROMPTS[:1], "num_return_sequences": 2},
}
TIERS = ["device", "disk"]
SIZES = Sizes(window=4, block=16, room=1024, staging_bytes=1 << 13)
MODES = {"greedy": {}, "coupled": {"temperature": 0.9, "seed": 3}}
ONLY_THE_BEST = {**MODES["coupled"], "top_k": 1}  # greedy, where several samples are asked for
NEW = 10


def request(batch, mode):
    """Keywords of a call; greedy samples of one prompt are refused, and so drawn from one token."""
    how = ONLY_THE_BEST if (batch, mode) == ("forked", "greedy") else MODES[mode]
    return {**BATCHES[batch], **how, "max_new_tokens": NEW}


class Tried:
    """An engine, and what plain decoding gives."""

    def __init__(self, name):
        self.engine = Engine(models.build(name, **MODELS[name]), hostile.tokenizer(models.VOCAB))
        self.known = {}

    def plain(self, batch, mode):
        if (batch, mode) not in self.known:
            self.known[batch, mode] = self.engine.generate(**request(batch, mode), drafter="none")
        return self.known[batch, mode]


@pytest.fixture(scope="module")
def tried():
    known = {}

    def of(name):
        if name not in known:
            known[name] = Tried(name)
        return known[name]

    return of


def as_list(generations):
    return generations if isinstance(generations, list) else [generations]


@crossed(fast=True, method=METHODS, model=MODELS, batch=BATCHES, tier=TIERS, mode=MODES)
def test_its_drafts_never_change_the_text(tried, method, model, batch, tier, mode):
    """Greedy and coupled, chains and trees, on the device and out of slower memory."""
    engine, want = tried(model).engine, tried(model).plain(batch, mode)
    options = {
        **smallest(method, engine),
        **(as_a_tree(method) if mode == "coupled" else {}),
    }
    with patch.object(engine.target, "kv_memory", KVMemory(tier, sizes=SIZES)):
        out = engine.generate(**request(batch, mode), **options, drafter=method)
    assert outcome(as_list(out)) == outcome(as_list(want))
    first = as_list(out)[0]
    assert first.lossless and first.stats.num_draft_tokens and leaves_out(first.stats.reads[method])


@crossed(together=1, method=METHODS, model=MODELS)
def test_nothing_comes_of_what_was_rejected(tried, method, model):
    """NaN in slots that are not committed reaches no logits, of a draft or of a lossy pass."""
    engine = tried(model).engine
    common = {**smallest(method, engine), "max_new_tokens": NEW}
    lossy = engine.generate(PROMPTS, view=method, drafter=hostile.RandomTrees, **common)
    assert not any(g.lossless for g in lossy)
    with logits_of_passes() as seen:
        drafted = text_under_poison(engine, PROMPTS, drafter=method, **as_a_tree(method), **common)
        again = text_under_poison(
            engine, PROMPTS, view=method, drafter=hostile.RandomTrees, **common
        )
    assert outcome(drafted) == outcome(tried(model).plain("ragged", "greedy"))
    assert outcome(again) == outcome(lossy)
    assert all(bool(logits.isfinite().all()) for logits in seen)


@crossed(together=1, method=METHODS, model=MODELS)
def test_with_a_budget_of_everything_it_is_the_full_view(tried, method, model):
    """The same logits in the same passes, over prompts and random trees."""
    engine, found = tried(model).engine, []
    engine.stream([1], view=method, **everything(method)).close()  # measures what it has to, once
    for view, options in (("full", {}), (method, everything(method))):
        with logits_of_passes() as seen:
            kwargs = {"drafter": hostile.RandomTrees, "max_new_tokens": NEW, **options}
            engine.generate(PROMPTS, view=view, **kwargs)
        found.append(seen)
    for full, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, full, rtol=1e-5, atol=1e-5)
