"""One long prompt beside many short ones: the memory of their own lengths, and the same texts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec import Engine
from specdec.cache import prompt_layout
from specdec.cache.ragged import Ragged, Room, cut
from specdec.cache.store import KVStore
from specdec.errors import OutOfMemory
from specdec.offload.kv_memory import KVMemory

from helpers import hostile, longspec_models, models
from helpers.matrix import crossed

LONG = [(5 * i * i + i) % models.VOCAB for i in range(100)]
PROMPTS = [[1, 2, 3, 1, 2, 3], LONG, [7], [3, 4] * 5, LONG[::-1][:80], [5, 6], [9]]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=12))
def test_every_row_has_room_and_nothing_is_dearer(sizes):
    rooms = [Room(prompt, prompt + new) for prompt, new in sizes]
    found, count = cut(rooms), len(rooms)
    equal = count * max(room.whole for room in rooms)
    assert found.slots <= equal
    for number, room in enumerate(rooms):
        is_long = number in found.long
        assert room.whole - is_long * room.prompt <= found.capacity
        assert not is_long or room.prompt <= found.prompts
    levels = (len(found.long) + 1) * found.prompts if found.long else 0
    assert found.slots == levels + count * found.capacity


def test_rows_that_are_alike_stay_in_one_level():
    assert cut([Room(100, 150)] * 8) == Ragged((), 0, 150, 1200)
    assert cut([Room(100, 150), Room(80, 150)]).long == ()


def test_one_long_and_many_short():
    found = cut([Room(50, 754)] * 7 + [Room(8000, 8704)] + [Room(50, 754)] * 8)
    assert found.long == (7,) and found.slots < 0.21 * 16 * 8704


def test_memory_is_that_of_rows_as_they_are():
    """Peak bytes of a batch, measured where buffers are made; sixteen long rows would not fit."""
    engine = Engine(
        models.build("llama", max_position_embeddings=9000), hostile.tokenizer(models.VOCAB)
    )
    token = engine.target.kv_shape.token_bytes
    prompts = [[i % models.VOCAB for i in range(3000)]] + [[i + 1] * 5 for i in range(15)]
    want = [
        engine.generate(prompt, max_new_tokens=8, drafter="none").token_ids for prompt in prompts
    ]
    memory = engine.target.kv_memory = KVMemory(device_bytes=22_000 * token)
    for drafter in ("none", "ngram"):
        out = engine.generate(prompts, max_new_tokens=8, drafter=drafter)
        assert [g.token_ids for g in out] == want
    assert 3000 * token < memory.device.peak < 0.4 * 16 * 3000 * token
    with pytest.raises(OutOfMemory):
        different = [[i, *prompts[0]] for i in range(16)]
        engine.generate(different, max_new_tokens=8, drafter="none")


ENGINES = ["llama", "gemma3", "fused"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    if request.param == "fused":  # float32 and heads of 16: passes by our kernels
        sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
        model = models.build("llama", dtype=torch.float32, **sizes)
    else:
        model = models.build(request.param)
    return Engine(model, hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def draft():
    return models.build("llama", seed=1)


@pytest.fixture
def ragged(monkeypatch):
    """The two long prompts apart, however short they are; and who was asked for more levels."""

    def forced(rooms):
        long = tuple(i for i, room in enumerate(rooms) if room.prompt >= 79)
        if len(long) in (0, len(rooms)):
            return cut(rooms)
        rest = [room.whole - (i in long) * room.prompt for i, room in enumerate(rooms)]
        return Ragged(long, max(rooms[i].prompt for i in long), max(rest), 0)

    monkeypatch.setattr(prompt_layout, "cut", forced)
    stacked = []
    stack = KVStore.stack

    def spied(self, sources, capacity, row_map=None):
        stacked.append(list(sources))
        stack(self, sources, capacity, row_map)

    monkeypatch.setattr(KVStore, "stack", spied)
    return stacked


SPARSE = {"budget": 32, "sink": 4, "recent": 4}
DRAFTERS = {
    "none": {}, "ngram": {}, "auto": {}, "model": {"draft_width": 3}, "kivi": {"kv_group": 32},
    "snapkv": SPARSE, "quest": {**SPARSE, "budget": 48}, "triforce": {},
}  # fmt: skip


@crossed(
    together=1, indirect=["engine"], engine=ENGINES, drafter=[*DRAFTERS, longspec_models.untrained],
    samples=[1, 2],
)  # fmt: skip
def test_the_texts_are_those_of_each_alone(engine, draft, ragged, drafter, samples):
    options = {} if callable(drafter) else DRAFTERS[drafter]
    if engine.packing.weights and callable(drafter):
        pytest.skip("it copies weights that are packed")
    if drafter == "model":
        options = {**options, "draft_model": draft}
    for sampling in ({}, {"temperature": 0.9, "seed": 3})[samples - 1 :]:
        kwargs = {**sampling, "max_new_tokens": 10, "num_return_sequences": samples}
        want = []
        for prompt in PROMPTS:
            want += engine.generate([prompt], drafter="none", **kwargs)
        ragged.clear()
        out = engine.generate(PROMPTS, drafter=drafter, **options, **kwargs)
        assert [row for row in (2, 0, 2, 2, 1, 2, 2) for _ in range(samples)] in ragged
        assert [g.token_ids for g in out] == [g.token_ids for g in want]


def test_a_view_that_chooses_and_tiers_keep_equal_rows(engine, ragged):
    engine.generate(PROMPTS, view="quest", drafter="none", max_new_tokens=4, **SPARSE)
    assert not ragged
    before = engine.target.kv_memory
    try:
        engine.target.kv_memory = KVMemory("host")
        engine.generate(PROMPTS, drafter="none", max_new_tokens=4)
    finally:
        engine.target.kv_memory = before
    assert not ragged
