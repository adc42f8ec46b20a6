"""Keys and values on tiers: the text is that of the run that has them all on the device."""

from __future__ import annotations

from time import perf_counter
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.forward.near_pages import Pool
from specdec.offload.balance import Balance
from specdec.offload.kv_memory import KVMemory
from specdec.offload.pace import Pace
from specdec.offload.split import Sizes
from specdec.offload.tiered_store import TieredStore
from specdec.registry import VIEWS
from specdec.sparse.scorers.chunk_means import ChunkMeans

from helpers import contract, hostile, models
from helpers.matrix import crossed
from helpers.tiered import NEW, PROMPTS, SMALL, TIERS, engine_of


@pytest.fixture(scope="module")
def llama():
    return engine_of()


@crossed(
    drafter=["none", "ngram", hostile.Bushy, "triforce"], name=["llama", "qwen2", "gpt-oss"],
    tiers=TIERS,
)  # fmt: skip
def test_same_text(tiers, name, drafter):
    """Full and sliding layers, softcaps and sinks; two layers each."""
    engine = engine_of(name)
    want = engine.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    engine.target.kv_memory = KVMemory(**TIERS[tiers], sizes=SMALL)
    out = engine.generate(PROMPTS, drafter=drafter, max_new_tokens=NEW)
    assert contract.outcome(out) == contract.outcome(want)
    assert engine.target.kv_memory.device.peak > 0


DRAFTERS = {
    **contract.DRAFTERS,
    # of views one: `contract/test_methods.py` has them all
    "quest": {"drafter": "quest", "budget": 24, "sink": 4, "recent": 4},
}


@crossed(together=1, drafter=DRAFTERS, controls=["greedy", "sampled"])
def test_every_drafter(llama, drafter, controls):
    """The contract, with a layer behind a link and one on disk."""
    kwargs = {"max_new_tokens": NEW, **contract.CONTROLS[controls]}
    options = dict(DRAFTERS[drafter])
    name = options["drafter"]
    if options.get("draft_model") or (
        isinstance(name, str) and ("model" in name or "cascade" in name)
    ):
        options["draft_model"] = contract.draft_for(llama)
    llama.target.kv_memory = KVMemory("device")
    want = llama.generate(PROMPTS, drafter="none", **kwargs)
    llama.target.kv_memory = KVMemory(["host", "disk"], link=1e10, sizes=SMALL)
    assert contract.outcome(llama.generate(PROMPTS, **options, **kwargs)) == contract.outcome(want)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_split(llama, data):
    """Any tiers, sizes, prompts and samples; rows of a batch end in different tiers."""
    prompts = data.draw(
        st.lists(
            st.lists(st.integers(0, models.VOCAB - 1), min_size=1, max_size=40),
            min_size=1,
            max_size=3,
        )
    )
    kwargs = {
        "max_new_tokens": data.draw(st.integers(1, 16)),
        "temperature": 1.0,
        "seed": 1,
        "num_return_sequences": data.draw(st.integers(1, 2)),
        "eos_token_id": data.draw(st.lists(st.integers(0, models.VOCAB - 1), max_size=2)),
    }
    llama.target.kv_memory = KVMemory("device")
    want = llama.generate(prompts, drafter="none", **kwargs)
    llama.target.kv_memory = KVMemory(
        data.draw(st.tuples(*[st.sampled_from(["device", "host", "disk"])] * 2)),
        link=data.draw(st.sampled_from([None, 1e10])),
        sizes=Sizes(
            window=data.draw(st.integers(0, 9)),
            block=data.draw(st.integers(1, 5)),
            room=1024,
            staging_bytes=data.draw(st.sampled_from([1, 300, 5000])),
        ),
    )
    drafter = data.draw(st.sampled_from(["none", "ngram", hostile.RandomTrees]))
    assert contract.outcome(llama.generate(prompts, drafter=drafter, **kwargs)) == contract.outcome(
        want
    )


def test_the_device_holds_no_more_while_the_context_grows():
    """Eight times the context: the device's bytes grow by index data only, and obey the limit."""
    model = models.build("llama", dtype=torch.float32, max_position_embeddings=1 << 14)
    engine, peaks = Engine(model, hostile.tokenizer(models.VOCAB)), {}
    limit = 3_000_000
    for length in (1500, 12_000):
        memory = engine.target.kv_memory = KVMemory(
            "disk", limit, sizes=Sizes(window=64, block=64, room=1024, staging_bytes=1 << 16)
        )
        prompt = [i * i % models.VOCAB for i in range(length)]
        out = engine.generate(prompt, drafter="ngram", max_new_tokens=8)
        peaks[length] = memory.device.peak
        assert len(out.token_ids) == 8
    assert peaks[12_000] <= 1.01 * peaks[1500] <= limit


def test_auto_keeps_near_what_fits():
    """auto: everything on the device if it fits, then leading layers, the rest on disk."""
    engine = engine_of()
    shape_bytes = 2 * 2 * 8 * 8  # of a token in one layer: k and v, heads, head size, float64
    plain = engine.generate(PROMPTS[2], drafter="none", max_new_tokens=NEW)
    sizes = Sizes(window=4, block=4, room=1024, staging_bytes=512)
    for capacity in (60, 5000):
        memory = engine.target.kv_memory = KVMemory(
            "auto",
            9900 * shape_bytes,
            sizes=sizes,  # both layers take 10,000
        )
        store = engine.target.new_store(1, capacity)
        assert isinstance(store, TieredStore) == (capacity == 5000)
        assert memory.device.used == 0  # buffers are made at the first write
    tiers = [tier.name for tier in store.levels[0].homes]
    assert tiers == ["device", "disk"]
    out = engine.generate(PROMPTS[2], drafter="ngram", max_new_tokens=NEW)
    assert out.token_ids == plain.token_ids


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("partials", ["auto", "device", "host"])
def test_partials_on_the_host(partials, name):
    """Attention over a host tier, fetched or computed where it lies: the same text."""
    engine = engine_of(name)
    want = engine.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    memory = KVMemory("host", link=1e9, sizes=SMALL, partials=partials)
    engine.target.kv_memory = memory
    out = engine.generate(PROMPTS, drafter=hostile.Bushy, max_new_tokens=NEW)
    assert contract.outcome(out) == contract.outcome(want)
    assert (memory.pace.moved == 0) == (partials == "host")
    with pytest.raises(InvalidArgument, match="partials='cloud' is unknown"):
        KVMemory("host", partials="cloud")


def test_the_faster_place_is_chosen():
    """The link is measured first, then the CPU, for each number of queries; then the faster one."""
    balance = Balance(pace := Pace(1e6))
    assert not balance.on_host(4)
    pace.after(1000, perf_counter())
    assert balance.on_host(4) and pace.reached <= 1e6
    balance.note(4, 10_000_000, 1.0)
    assert balance.on_host(4) and balance.on_host(5)
    balance.note(64, 1000, 1.0)
    assert not balance.on_host(64) and balance.on_host(4)


def test_indices_are_made_while_the_prompt_is_read(llama):
    """The first draft finds summaries of what has moved, and fetches no keys for them."""
    sizes = Sizes(window=32, block=16, room=1024, staging_bytes=1 << 12)
    llama.target.kv_memory = KVMemory("disk", sizes=sizes)
    options = {"drafter": "triforce-chunks", "budget": 24, "sink": 4, "recent": 4}
    stream = llama.stream([1, 2, 3, 4, 5] * 20, max_new_tokens=8, **options)
    next(stream)
    cold = stream.model.store.levels[0]
    kept = cold.beside[ChunkMeans(8).key]
    indices = [rows[0] for rows in kept.of.values()]
    assert len(indices) == 2 and all(x.pages == int(cold.length[0]) // 8 > 0 for x in indices)


def test_what_drafts_fetch_is_counted_and_fetched_once(llama):
    """Pages that stay selected stay near: a second pass fetches what is new to it alone."""
    sizes = Sizes(window=32, block=16, room=1024, staging_bytes=1 << 12)
    llama.target.kv_memory = memory = KVMemory("disk", sizes=sizes)
    for refresh in ("round", "pass"):
        options = {"drafter": "triforce-chunks", "budget": 48, "sink": 8, "recent": 8}
        stream = llama.stream([1, 2, 3, 4, 5] * 30, max_new_tokens=16, refresh=refresh, **options)
        next(stream)
        near = stream.model.store.levels[0].beside["near pages of 8"]
        page = next(iter(near.of.values())).k[0, 0].nbytes
        wanted = fetched = 0
        hold = Pool.hold

        def counted(pool, pages, exact, fetch):
            nonlocal wanted
            wanted += (pages >= 0).sum()
            return hold(pool, pages, exact, lambda *which: noted(fetch, *which))

        def noted(fetch, heads, *which):
            nonlocal fetched
            fetched += len(heads)
            return fetch(heads, *which)

        moved = memory.pace.moved
        with patch.object(Pool, "hold", counted):
            stream.drafter.propose(stream.rows, [4])
        assert 0 < fetched < wanted
        assert memory.pace.moved - moved == 2 * page * fetched  # keys and values


@pytest.mark.parametrize("view", ["kivi", "gear", "lizard", "shadowkv", "sparf"])
def test_copies_are_read_in_place_of_what_is_elsewhere(llama, view):
    """Lossy text is the same wherever the text lies that a copy, or a state, stands for."""
    found = []
    for tier in ("device", "disk"):
        sizes = Sizes(window=16, block=16, room=1024, staging_bytes=1 << 12)
        llama.target.kv_memory = KVMemory(tier, sizes=sizes)
        known = {"kv_group": 32, "sink": 0, "budget": 64, "key_share": 0.5}
        how = {x: y for x, y in known.items() if x in VIEWS[view].options}
        out = llama.generate(
            [7, 2, 9, 4, 5, 1, 8] * 20, view=view, recent=24, max_new_tokens=12, **how
        )
        found.append(out)
    assert found[0].token_ids == found[1].token_ids


def test_weights_spread_by_accelerate(tmp_path):
    """Some layers' weights on disk, fetched by accelerate's hooks; the text is the same."""
    model = models.build("llama", dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    want = Engine.from_pretrained(tmp_path / "model").generate(PROMPTS[2], max_new_tokens=NEW)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
              "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    engine = Engine.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "off", kv_tier="disk"
    )
    assert engine.device.type == "cpu" and not engine.packing.fused
    out = engine.generate(PROMPTS[2], drafter="ngram", max_new_tokens=NEW)
    assert out.token_ids == want.token_ids
