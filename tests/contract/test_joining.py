"""Rows that come and go: what a text is does not depend on whose slot it has, or who is beside it.

Over every method of the registry and every drafter: a row leaves, another joins in its slot in the
middle of the others' decoding. In float64: see `test_contract`.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

from specdec import Engine
from specdec.cache.slots import Slots
from specdec.decoding.drafting import make_drafter
from specdec.decoding.stream import GenerationStream
from specdec.errors import InvalidArgument, OutOfMemory, SpecdecError
from specdec.model.target import Target
from specdec.offload.kv_memory import KVMemory
from specdec.offload.saved_documents import SavedDocuments
from specdec.offload.split import Sizes
from specdec.registry import DRAFTERS as REGISTERED

from helpers import hostile, models
from helpers.contract import DRAFTERS, draft_for, outcome
from helpers.matrix import crossed
from helpers.methods import METHODS, as_a_tree, smallest

RNG = random.Random(1)
QUESTIONS = random.Random(7)
FIRST, MIDDLE, LATER = ([RNG.randrange(models.VOCAB) for _ in range(n)] for n in (90, 70, 60))
LONG, SHORT = 12, 2  # new tokens of a row that stays, and of one that leaves
SAMPLED = {"temperature": 0.9, "seed": 3}
SIZES = Sizes(window=4, block=16, room=1024, staging_bytes=1 << 13)


class Tried:
    """An engine, and plain decoding's text of each prompt alone."""

    def __init__(self, name="llama"):
        self.engine = Engine(models.build(name), hostile.tokenizer(models.VOCAB))
        self.known = {}

    def plain(self, prompt, **how):
        key = repr((prompt, how))
        if key not in self.known:
            self.known[key] = outcome([self.engine.generate(prompt, drafter="none", **how)])[0]
        return self.known[key]


@pytest.fixture(scope="module")
def tried():
    return Tried()


def requests(engine, prompts, news, **how):
    """A request for each prompt, with as many new tokens as it is given."""
    return [
        engine._request(prompt, None, {"max_new_tokens": new, **how})
        for prompt, new in zip(prompts, news, strict=True)
    ]


def stream_of(engine, first, tokens=0, slots=2):
    given = first.options.get("draft_model")
    draft = None
    if given is not None:
        draft = engine._draft_models.get(given, engine.target)
    drafter = make_drafter(engine.target, first, draft)
    return GenerationStream(engine.target, first, drafter, Slots(slots, tokens))


def poison_released(stream):
    """NaN wherever no text of the stream has keys and values that count."""
    stores = [stream.model.store]
    model = getattr(stream.drafter.drafter, "_model", None)
    stores += [model.store] if hasattr(model, "store") else []
    with torch.inference_mode():
        for store in stores:
            live = {row.slot for row in stream.scheduler.active}
            for slot in set(range(store.sequences)) - live:
                for buffer in (*store.levels[-1].k, *store.levels[-1].v):
                    if buffer is not None:
                        buffer[slot] = torch.nan


def comes_and_goes(tried, drafter, **how):
    """MIDDLE leaves early, LATER takes its slot while FIRST is being decoded: their texts."""
    engine, prompts = tried.engine, (FIRST, MIDDLE, LATER)
    options = {**how, **drafter}
    a, b, c = requests(engine, prompts, (LONG, SHORT, LONG), **options)
    stream = stream_of(engine, a, tokens=len(a.prompts[0]) + LONG)
    stream.add(b)
    seen = 0
    for step in stream:
        seen += step.row == 1
        if step.row == 1 and step.finish_reason:
            stream.add(c)
        poison_released(stream)
    slots = [row.slot for row in stream.rows]
    assert slots == [0, 1, 1] and seen
    return stream.generations


def check(tried, drafter, **how):
    found = comes_and_goes(tried, drafter, **how)
    news = (LONG, SHORT, LONG)
    want = [
        tried.plain(prompt, max_new_tokens=new, **how)
        for prompt, new in zip((FIRST, MIDDLE, LATER), news, strict=True)
    ]
    assert outcome(found) == want
    assert all(g.lossless for g in found)
    return found


DOCUMENT = [RNG.randrange(models.VOCAB) for _ in range(80)]


@contextmanager
def read_tokens():
    """How many tokens each call of a prefill of the target reads."""
    seen, honest = [], Target.prefill

    def noted(self, store, view, sequence, tokens, *args, **kwargs):
        seen.append(len(tokens))
        return honest(self, store, view, sequence, tokens, *args, **kwargs)

    with patch.object(Target, "prefill", noted):
        yield seen


@pytest.mark.parametrize("drafter", ["none", "ngram", "streaming", "kivi"])
@pytest.mark.parametrize("mode", ["greedy", "coupled"])
def test_who_joins_reads_what_live_rows_share(tried, drafter, mode):
    """Two questions on a document; a third joins when one of them is done, and outlives the other.

    Only what the document does not hold is read, its row stays while anybody reads it, and one that
    begins otherwise shares nothing.
    """
    how = {**MODES[mode], "drafter": drafter}
    asked = [DOCUMENT + QUESTIONS.sample(range(models.VOCAB), n) for n in (5, 3, 9)]
    other = [(token + 1) % models.VOCAB for token in asked[2]]
    news = (7, SHORT, LONG, SHORT)
    a, b, c, d = requests(tried.engine, (*asked, other), news, **how)
    stream = stream_of(tried.engine, a, tokens=len(asked[2]) + LONG, slots=3)
    stream.add(b)
    came, shared = False, []
    with read_tokens() as seen:
        for step in stream:
            store, rows = stream.model.store, stream.scheduler.active
            if not came and step.row == 1 and step.finish_reason:
                came, before = True, len(seen)
                stream.add(c)
                stream.add(d)
            if came:
                shared += [(row.index, store.ends(row.slot)[0]) for row in rows]
            poison_released(stream)
    assert seen[before:][:2] == [len(asked[2]) - 80 - 1, len(other) - 1]
    ends = dict(shared)
    assert (ends[0], ends[2], ends[3]) == (80, 80, 0)
    assert shared[-1] == (2, 80), "it stays when those are gone that it was read for"
    assert int(store.levels[0].length.sum()) == 0, "and goes with the last one"
    want = [tried.plain(p, max_new_tokens=n, **MODES[mode]) for p, n in zip((*asked, other), news)]
    assert outcome(stream.generations) == want


MODES = {"greedy": {}, "coupled": SAMPLED}
TIERS = ["device", "disk"]


@crossed(together=1, drafter=DRAFTERS, mode=MODES, tier=TIERS)
def test_drafters_forget_who_leaves(tried, drafter, mode, tier):
    given = dict(DRAFTERS[drafter])
    name = given["drafter"]
    named = isinstance(name, str) and ("model" in name or "cascade" in name)
    if named or "draft_model" in given:
        given["draft_model"] = draft_for(tried.engine)
    if tier == "disk" and "longspec" in drafter:
        pytest.skip("it reads the target's KV where it lies")
    with patch.object(tried.engine.target, "kv_memory", KVMemory(tier, sizes=SIZES)):
        check(tried, given, **MODES[mode])


@crossed(together=1, method=METHODS, mode=MODES, tier=TIERS)
def test_methods_forget_who_leaves(tried, method, mode, tier):
    """What a method keeps of a text, beside a level or the text, is gone with the slot: who joins
    there drafts and reads what it would alone."""
    how = {**smallest(method, tried.engine), **(as_a_tree(method) if mode == "coupled" else {})}
    how |= {"drafter": method, "num_draft_tokens": 4}  # on tiers it would go by measured costs
    with patch.object(tried.engine.target, "kv_memory", KVMemory(tier, sizes=SIZES)):
        later = check(tried, how, **MODES[mode])[2].stats
        alone = tried.engine.generate(LATER, max_new_tokens=LONG, **how, **MODES[mode]).stats
    assert (later.accepted, later.drafted) == (alone.accepted, alone.drafted)
    assert later.reads[method].bytes == alone.reads[method].bytes


@crossed(together=1, mode=MODES, tier=TIERS)
def test_fused_documents_forget_who_leaves(tried, mode, tier, tmp_path):
    """Questions about documents that were read apart: `cacheblend` drafts from what is fused."""
    folders, rng = [], random.Random(2)
    for number, size in enumerate((23, 31)):
        folders.append(tmp_path / str(number))
        tried.engine.save_prompt([rng.randrange(models.VOCAB) for _ in range(size)], folders[-1])
    documents = SavedDocuments(folders)
    how = {**MODES[mode], "saved_documents": documents}
    with patch.object(tried.engine.target, "kv_memory", KVMemory(tier, sizes=SIZES)):
        later = check(tried, {"drafter": "cacheblend"}, **how)[2].stats
        alone = tried.engine.generate(LATER, drafter="cacheblend", max_new_tokens=LONG, **how).stats
    assert later.num_draft_tokens and (later.accepted, later.drafted) == (
        alone.accepted, alone.drafted
    )  # fmt: skip


@pytest.mark.parametrize("drafter", ["none", "ngram", "triforce-chunks", "snapkv"])
def test_a_cancelled_row_leaves_its_slot(tried, drafter):
    """Between steps, waiting or not; the others' texts are what they were."""
    how = {} if drafter in ("none", "ngram") else smallest(drafter, tried.engine)
    engine = tried.engine
    a, b, c = requests(engine, (FIRST, MIDDLE, LATER), (LONG, LONG, LONG), drafter=drafter, **how)
    stream = stream_of(engine, a, tokens=len(FIRST) + LONG)
    stream.add(b)
    stream.add(c)
    (never,) = stream.add(c)
    next(stream)
    assert [row.index for row in stream.scheduler.active] == [0, 1]
    assert stream.model.store.free == []
    stream.cancel(3)
    stream.cancel(1)
    assert stream.model.store.free == [1] and len(stream.scheduler.waiting) == 1
    assert stream.model.store.length(1) == 0
    first, gone, later, waited = stream.run()
    assert outcome([first])[0] == tried.plain(FIRST, max_new_tokens=LONG)
    assert outcome([later])[0] == tried.plain(LATER, max_new_tokens=LONG)
    whole = tried.plain(MIDDLE, max_new_tokens=LONG)[0]
    assert gone.finish_reason == waited.finish_reason == "cancelled"
    assert gone.token_ids and gone.token_ids == whole[: len(gone.token_ids)]
    assert waited.token_ids == [] and never.tokens == LATER
    assert stream.rows[2].slot == 1


def test_a_slot_that_is_too_small_is_told(tried):
    engine = tried.engine
    small, large = requests(engine, (LATER, FIRST), (SHORT, 400), drafter="ngram")
    stream = stream_of(engine, small)
    next(stream)
    stream.add(large)
    with pytest.raises(OutOfMemory, match=r"row 1 may grow to 257 tokens, and a slot"):
        stream.run()


def test_what_a_stream_does_not_take(tried):
    a, b = (requests(tried.engine, [FIRST], [4], drafter=name)[0] for name in ("none", "ngram"))
    stream = stream_of(tried.engine, a)
    with pytest.raises(InvalidArgument, match="have one drafter and view, and drafter differs"):
        stream.add(b)
    stream.close()
    with pytest.raises(InvalidArgument, match="join a stream that goes on"):
        stream.add(a)
    store = tried.engine.target.new_store(2, 8)
    assert [store.acquire(1), store.acquire(), store.free] == [1, 0, []]
    with pytest.raises(SpecdecError, match="none of 2 slots"):
        store.acquire()
    store.release(1)
    assert store.acquire() == 1


def test_every_drafter_of_the_registry_is_tried():
    names = {part for given in DRAFTERS.values() for part in str(given["drafter"]).split("+")}
    tried_here = names | set(DRAFTERS) | set(METHODS) | {"none", "cacheblend"}
    assert set(REGISTERED) <= tried_here
