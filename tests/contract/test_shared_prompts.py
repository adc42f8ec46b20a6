"""Prompts that begin alike are read once, as a tree; every text is that of its prompt alone.

In float64: see `test_contract`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.cache import prompt_tree
from specdec.decoding import prefill
from specdec.errors import InvalidArgument
from specdec.model.target import Target
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes
from specdec.offload.tiered_store import TieredStore

from helpers import hostile, models
from helpers.contract import DRAFTERS, draft_for, outcome
from helpers.matrix import crossed
from helpers.methods import METHODS, as_a_tree, smallest, text_under_poison

RNG = random.Random(2)
SYSTEM, LAW, CASE, *ASKED = (
    [RNG.randrange(models.VOCAB) for _ in range(n)] for n in (40, 70, 66, 7, 3, 12, 9)
)
# A system prompt, two documents under it, two questions under each; and who shares nothing.
TREE = [
    SYSTEM + LAW + ASKED[0], SYSTEM + LAW + ASKED[1], SYSTEM + CASE + ASKED[2],
    SYSTEM + CASE + ASKED[3], [5, 6, 7],
]  # fmt: skip
DISTINCT = 40 + 70 + 66 + 7 + 3 + 12 + 9 - 4 + 2  # without the last token of each prompt
TINY = Sizes(window=4, block=4, room=1024, staging_bytes=1 << 13)
NEW = 10
MODES = {"greedy": {}, "coupled": {"temperature": 0.9, "seed": 3}}
TIERS = ["device", "disk", "host"]


class Tried:
    def __init__(self, name):
        self.engine = Engine(models.build(name), hostile.tokenizer(models.VOCAB))
        self.known = {}

    def plain(self, prompts, **how):
        """Plain decoding, each prompt alone."""
        for prompt in prompts:
            key = repr((prompt, how))
            if key not in self.known:
                (self.known[key],) = outcome([self.engine.generate(prompt, drafter="none", **how)])
        return [self.known[repr((prompt, how))] for prompt in prompts]


@pytest.fixture(scope="module")
def tried():
    known = {}

    def of(name):
        if name not in known:
            known[name] = Tried(name)
        return known[name]

    return of


@contextmanager
def read_tokens() -> Iterator[list[int]]:
    """How many tokens each call of a prefill reads."""
    seen, honest = [], Target.prefill

    def noted(self, store, view, sequence, tokens, *args, **kwargs):
        seen.append(len(tokens))
        return honest(self, store, view, sequence, tokens, *args, **kwargs)

    with patch.object(Target, "prefill", noted):
        yield seen


@contextmanager
def tiers(engine: Engine, tier: str, everywhere: bool = True) -> Iterator[None]:
    """KV in a tier; everywhere: each level has a cold one, however short its rows are."""
    push = TieredStore._push_pair if everywhere else TieredStore._push
    memory = KVMemory(tier, sizes=TINY)
    with patch.object(TieredStore, "_push", push), patch.object(engine.target, "kv_memory", memory):
        yield


@crossed(together=1, drafter=DRAFTERS, mode=MODES)
def test_every_drafter_over_a_tree(tried, drafter, mode):
    one = tried("llama")
    given = dict(DRAFTERS[drafter])
    name = given["drafter"]
    if "draft_model" in given or isinstance(name, str) and ("model" in name or "cascade" in name):
        given["draft_model"] = draft_for(one.engine)
    how = {"max_new_tokens": NEW, **MODES[mode]}
    with read_tokens() as seen:
        out = one.engine.generate(TREE, **how, **given)
    assert outcome(out) == one.plain(TREE, **how)
    assert sum(seen) % DISTINCT == 0 or len(seen) > 20  # of drafters' own models, too


@crossed(together=1, method=METHODS, mode=MODES, tier=TIERS, model=["llama", "gemma3"])
def test_every_method_over_a_tree(tried, method, mode, tier, model):
    """What it keeps beside levels and texts follows the tree; coupled with a cold level in each."""
    one = tried(model)
    how = {"max_new_tokens": NEW, **MODES[mode]}
    options = smallest(method, one.engine)
    options |= as_a_tree(method) if mode == "coupled" else {}
    with tiers(one.engine, tier, everywhere=mode == "coupled"):
        out = one.engine.generate(TREE, drafter=method, **how, **options)
    assert outcome(out) == one.plain(TREE, **how)
    assert out[0].stats.num_draft_tokens and method in out[0].stats.reads


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("model", ["llama", "gemma3", "gpt-oss"])
def test_cold_levels_at_each_depth(tried, model, tier):
    """Windows and sinks, too, are counted through all levels."""
    one, how = tried(model), {"max_new_tokens": 20}
    with tiers(one.engine, tier):
        stream = one.engine.stream(TREE, drafter="ngram", min_ngram=1, **how)
        next(stream)
        remote = [x.capacity for x in stream.model.store.levels if x.is_remote(0, x.length.device)]
        assert len(remote) == (3 if tier == "disk" else 0)
        out = stream.run()
    assert outcome(out) == one.plain(TREE, **how)


@pytest.mark.parametrize("drafter", ["none", "snapkv"])
def test_each_token_of_the_tree_is_read_once(tried, drafter):
    one, how = tried("llama"), {"max_new_tokens": NEW, "drafter": drafter}
    how |= smallest(drafter, one.engine) if drafter != "none" else {}
    with read_tokens() as seen:
        shared = one.engine.generate(TREE, **how)
    assert sum(seen) == DISTINCT
    with read_tokens() as seen:
        apart = one.engine.generate(TREE, share_prefixes=False, **how)
    assert sum(seen) == sum(map(len, TREE)) - len(TREE)
    assert outcome(shared) == outcome(apart)
    with pytest.raises(InvalidArgument, match="share_prefixes='no': give True or False"):
        one.engine.generate(TREE, share_prefixes="no")


def test_nothing_of_a_dead_slot_gets_out(tried):
    one = tried("llama")
    how = {"max_new_tokens": NEW, **smallest("quest", one.engine)}
    out = text_under_poison(one.engine, TREE, drafter="quest", **how)
    assert outcome(out) == one.plain(TREE, max_new_tokens=NEW)


def test_a_lossy_text_does_not_depend_on_who_is_beside_it(tried):
    """So prompts are read apart where a view chooses among a level's keys."""
    engine = tried("llama").engine
    how = {"view": "quest", "drafter": "none", "max_new_tokens": NEW}
    how |= smallest("quest", engine)
    with read_tokens() as seen:
        out = engine.generate(TREE, **how)
    assert sum(seen) == sum(map(len, TREE)) - len(TREE)
    assert [g.token_ids for g in out] == [engine.generate(p, **how).token_ids for p in TREE]


def test_a_saved_prompt_is_what_all_begin_with(tried, tmp_path):
    """It is loaded once, into the level that all share; where they differ before its end, up to
    there."""
    one, how = tried("llama"), {"max_new_tokens": NEW}
    one.engine.save_prompt(SYSTEM + LAW, tmp_path / "kv")
    asked = [SYSTEM + LAW + x for x in ASKED] + [SYSTEM + LAW[:-3] + [1, 2, 3, 4]]
    with read_tokens() as seen:
        out = one.engine.generate(asked, saved_prompt=tmp_path / "kv", drafter="ngram", **how)
    assert outcome(out) == one.plain(asked, **how)
    assert sum(seen) < 3 * 4 + sum(map(len, ASKED)) + 8


def test_samples_and_shared_beginnings_together(tried):
    one = tried("llama")
    how = {"max_new_tokens": NEW, "temperature": 0.9, "seed": 5, "num_return_sequences": 2}
    with read_tokens() as seen:
        out = one.engine.generate(TREE[:4], drafter="ngram", **how)
    assert sum(seen) == DISTINCT - 2
    alone = [one.engine.generate(p, drafter="none", **how) for p in TREE[:4]]
    assert outcome(out) == [x for pair in alone for x in outcome(pair)]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_tree(tried, data):
    """Random trees of prompts, whatever is worth sharing, on the device and on disk."""
    one = tried("llama")
    parts = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    stems = [[RNG.randrange(3) for _ in range(n)] for n in parts]
    paths = data.draw(st.lists(st.lists(st.sampled_from(range(len(stems))), max_size=4), min_size=1,
                               max_size=5))  # fmt: skip
    prompts = [[t for i in path for t in stems[i]] + [i % 3] for i, path in enumerate(paths)]
    prompts = [list(x) for x in dict.fromkeys(map(tuple, prompts))]
    how = {"max_new_tokens": data.draw(st.integers(1, 8)), "eos_token_id": []}
    tier = data.draw(st.sampled_from(["device", "disk"]))
    honest = prompt_tree.branches
    drafter = data.draw(st.sampled_from(["none", "ngram", hostile.RandomTrees]))

    def eager(texts, kinds, **rest):
        return honest(texts, kinds, least=1, **rest)

    with (
        patch.object(prefill, "branches", eager),
        tiers(one.engine, tier),
        read_tokens() as seen,
    ):
        out = one.engine.generate(prompts, drafter=drafter, **how)
    assert outcome(out) == one.plain(prompts, **how)
    trie = {tuple(p[: i + 1]) for p in prompts for i in range(len(p) - 1)}
    assert sum(seen) == len(trie)
