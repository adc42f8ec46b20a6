"""Keys and values on tiers: the text is that of the run that has them all on the device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import hostile
import models
import pytest
import test_contract
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.errors import InvalidArgument, OutOfMemory, UnsupportedModel
from specdec.offload.balance import Balance
from specdec.offload.disk import DiskTier
from specdec.offload.kv_memory import KVMemory
from specdec.offload.pace import Pace
from specdec.offload.split import Sizes
from specdec.offload.tiered_store import TieredStore

PROMPTS = [[1, 2, 3, 4, 5] * 4, [7], [3, 4] * 16, [9, 8, 7, 9, 8, 7, 9]]
NEW = 24
SMALL = Sizes(window=4, block=3, room=1024, staging_bytes=700)

TIERS = {
    "disk": {"tier": "disk"},
    "host": {"tier": "host"},
    "link": {"tier": "host", "link": 1e9},
    "mixed": {"tier": ["device", "disk"]},
}


def outcome(generations):
    return [(g.token_ids, g.finish_reason, g.text) for g in generations]


def engine_of(name="llama", **kwargs):
    return Engine(models.build(name), hostile.tokenizer(models.VOCAB), **kwargs)


@pytest.fixture(scope="module")
def llama():
    return engine_of()


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt-oss"])
@pytest.mark.parametrize("drafter", ["none", "ngram", hostile.Bushy, "triforce"])
def test_same_text(tiers, name, drafter):
    """Full and sliding layers, softcaps and sinks; two layers each."""
    engine = engine_of(name)
    want = engine.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    engine.target.kv_memory = KVMemory(**TIERS[tiers], sizes=SMALL)
    out = engine.generate(PROMPTS, drafter=drafter, max_new_tokens=NEW)
    assert outcome(out) == outcome(want)
    assert engine.target.kv_memory.device.peak > 0


VIEWS = ("streaming", "triforce-chunks", "quest", "snapkv", "verified", "tidal", "double-sparsity")
DRAFTERS = {
    **test_contract.DRAFTERS,
    **{view: {"drafter": view, "budget": 24, "sink": 4, "recent": 4} for view in VIEWS},
    "kivi": {"drafter": "kivi", "kv_group": 32, "recent": 2},
}


@pytest.mark.parametrize("controls", ["greedy", "sampled"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_every_drafter(llama, drafter, controls):
    """The contract, with a layer behind a link and one on disk."""
    kwargs = {"max_new_tokens": NEW, **test_contract.CONTROLS[controls]}
    options = dict(DRAFTERS[drafter])
    name = options["drafter"]
    if options.get("draft_model") or (
        isinstance(name, str) and ("model" in name or "cascade" in name)
    ):
        options["draft_model"] = models.disturbed(llama.model, 0.03)
    llama.target.kv_memory = KVMemory("device")
    want = llama.generate(PROMPTS, drafter="none", **kwargs)
    llama.target.kv_memory = KVMemory(["host", "disk"], link=1e10, sizes=SMALL)
    assert outcome(llama.generate(PROMPTS, **options, **kwargs)) == outcome(want)


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
    assert outcome(llama.generate(prompts, drafter=drafter, **kwargs)) == outcome(want)


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
    assert outcome(out) == outcome(want)
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
    indices = [x for (key, layer, row), x in cold.sidecars.items()]
    assert len(indices) == 2 and all(x.pages == int(cold.length[0]) // 8 > 0 for x in indices)


def test_what_does_not_fit_is_refused():
    engine = engine_of()
    engine.target.kv_memory = KVMemory("auto", 10_000)
    with pytest.raises(OutOfMemory, match=r"device memory, and 9.8 KiB may be taken.*max_memory="):
        engine.generate(PROMPTS[0], max_new_tokens=NEW)
    engine.target.kv_memory = KVMemory("device", 10_000)
    with pytest.raises(OutOfMemory, match=r"of 10,000 bytes are taken"):
        engine.generate(PROMPTS[0], max_new_tokens=NEW)
    with pytest.raises(OutOfMemory, match="the weights take"):
        engine_of(max_memory={"cpu": "1KB"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kv_tier": "tape"}, "kv_tier='tape' is unknown: give device, host, disk, auto"),
        ({"kv_tier": ["host", "tape"]}, "kv_tier='tape'"),
        ({"max_memory": {"gpu": "1GiB"}}, "max_memory has a key 'gpu'"),
        ({"max_memory": {"cpu": "lots"}}, r"max_memory\['cpu'\]='lots' is no size"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        engine_of(**arguments)


def test_a_tier_for_each_layer(llama):
    llama.target.kv_memory = KVMemory(["disk"], sizes=SMALL)
    with pytest.raises(InvalidArgument, match="kv_tier names 1 tiers, and the model has 2 layers"):
        llama.generate(PROMPTS[0], max_new_tokens=4)


def test_a_folder_that_cannot_be_written(tmp_path, llama):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        llama.target.kv_memory = KVMemory("disk", folder=folder, sizes=SMALL)
        with pytest.raises(InvalidArgument, match="offload_folder='.*' cannot be written"):
            llama.generate(PROMPTS[0], max_new_tokens=4)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_missing_is_made(tmp_path, llama):
    llama.target.kv_memory = None
    want = llama.generate(PROMPTS[0], max_new_tokens=4).token_ids
    folder = tmp_path / "a" / "b"
    llama.target.kv_memory = KVMemory("disk", folder=folder, sizes=SMALL)
    assert llama.generate(PROMPTS[0], max_new_tokens=4).token_ids == want
    assert folder.is_dir() and not list(folder.iterdir())


def test_the_file_has_no_name(tmp_path):
    """So nothing is left of it, however the process ends."""
    tier = DiskTier(tmp_path)
    buffer = tier.empty((2, 3, 4, 5), torch.empty(0, dtype=torch.float16))
    assert buffer.shape == (2, 3, 4, 5) and list(tmp_path.iterdir()) == []
    buffer[:] = torch.arange(120).view(2, 3, 4, 5)
    out = torch.empty(3, 2, 5, dtype=torch.float16)
    tier.fetch(buffer, 1, 1, 3, out)
    assert torch.equal(out, buffer[1, :, 1:3])


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


def test_longrope_is_not_tiered():
    """Its prompts are read in one pass, which a small level cannot hold."""
    engine = engine_of()
    engine.target.rope_boundary = 64
    engine.target.kv_memory = KVMemory("disk", sizes=SMALL)
    with pytest.raises(UnsupportedModel, match="longrope.*kv_tier='device'"):
        engine.generate([1, 2, 3] * 30, max_new_tokens=20)


def decoding(folder, most=0):
    return subprocess.Popen(
        [sys.executable, Path(__file__).parent / "decode_on_disk.py", folder, str(most)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path):
    """The system refuses the blocks (here by a limit on file size), and we say so."""
    process = decoding(tmp_path, 100_000)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "no room for" in told and str(tmp_path) in told and "give another folder" in told
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_process_that_was_killed(tmp_path):
    process = decoding(tmp_path)
    assert process.stdout is not None and process.stdout.readline().startswith("[")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []
