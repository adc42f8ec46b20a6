"""KVStore against a model of it: a list of tokens for every sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from specdec.cache.store import KVStore
from specdec.errors import SpecdecError
from specdec.offload.budget import Budget
from specdec.offload.disk import DiskTier
from specdec.offload.tier import HostTier
from specdec.offload.tiered_store import TieredStore

pytestmark = pytest.mark.fast

LAYERS, HEADS, DIM, CAPACITY = 2, 2, 3, 30


def kv(tokens: list[list[int]], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that name their token, layer, head and dimension: `[B, H, n, D]`."""
    ids = torch.tensor(tokens, dtype=torch.float64)[:, None, :, None]
    tag = 0.1 * layer + torch.arange(HEADS)[:, None, None] * 0.01 + torch.arange(DIM) * 0.001
    return ids + tag, -(ids + tag)[..., :2]  # values are narrower than keys


class StoreMachine(RuleBasedStateMachine):
    """Any order of staging, committing, cropping and forking keeps every sequence's own tokens."""

    @initialize(sequences=st.integers(1, 3))
    def start(self, sequences):
        self.store = KVStore(LAYERS, sequences, CAPACITY)
        self.texts = [[] for _ in range(sequences)]
        self.shared = [0] * sequences
        self.staged = [[] for _ in range(sequences)]
        self.next = 1

    def room(self):
        last = self.store.levels[-1]
        return last.capacity - int(last.length.max()) - max(map(len, self.staged))

    @rule(data=st.data())
    def stage(self, data):
        room = self.room()
        if room < 1:
            return
        chosen = data.draw(
            st.lists(st.sampled_from(range(len(self.texts))), min_size=1, unique=True)
        )
        # A pass stages behind what its own rows have staged; the others' slots stay as they are.
        at = max(len(self.staged[s]) for s in chosen)
        n = data.draw(st.integers(1, min(room, 5)))
        tokens = [[self.next + i * n + j for j in range(n)] for i in range(len(chosen))]
        self.next += n * len(chosen)
        for layer in range(LAYERS):
            self.store.stage(layer, chosen, *kv(tokens, layer), at)
        for s, new in zip(chosen, tokens):
            self.staged[s] += [None] * (at - len(self.staged[s])) + new

    @rule(data=st.data())
    def read_staged(self, data):
        chosen = [s for s in range(len(self.texts)) if self.staged[s]]
        if not chosen:
            return
        count = min(len(self.staged[s]) for s in chosen)
        for layer in range(LAYERS):
            k, v = self.store.staged(layer, chosen, count)
            for i, s in enumerate(chosen):
                for slot, token in enumerate(self.staged[s][:count]):
                    if token is not None:
                        want_k, want_v = kv([[token]], layer)
                        assert torch.equal(k[i, :, slot], want_k[0, :, 0])
                        assert torch.equal(v[i, :, slot], want_v[0, :, 0])

    @rule(data=st.data())
    def commit(self, data):
        s = data.draw(st.sampled_from(range(len(self.texts))))
        real = [slot for slot, token in enumerate(self.staged[s]) if token is not None]
        path = sorted(data.draw(st.sets(st.sampled_from(real))) if real else [])
        self.store.commit(s, path)
        self.texts[s] += [self.staged[s][slot] for slot in path]
        self.staged[s] = []

    @rule()
    def rollback(self):
        self.staged = [[] for _ in self.texts]

    @rule(data=st.data())
    def crop(self, data):
        s = data.draw(st.sampled_from(range(len(self.texts))))
        length = data.draw(st.integers(self.shared[s], len(self.texts[s])))
        self.store.crop(s, length)
        del self.texts[s][length:]
        self.staged[s] = []

    @precondition(lambda self: len(self.store.levels) < 3 and len(self.texts) <= 3)
    @rule(samples=st.integers(2, 3))
    def fork(self, samples):
        self.store.stack([s // samples for s in range(samples * self.store.sequences)], CAPACITY)
        self.texts = [list(text) for text in self.texts for _ in range(samples)]
        self.shared = [len(text) for text in self.texts]
        self.staged = [[] for _ in self.texts]

    @invariant()
    def holds_the_texts(self):
        if not hasattr(self, "texts"):
            return
        for s, text in enumerate(self.texts):
            assert self.store.length(s) == len(text)
            for layer in range(LAYERS):
                at = 0
                for level, rows in zip(self.store.levels, self.store.row_maps):
                    row, length = int(rows[s]), int(level.length[rows[s]])
                    part = text[at : at + length]
                    if part:
                        want_k, want_v = kv([part], layer)
                        assert torch.equal(level.k[layer][row, :, :length], want_k[0])
                        assert torch.equal(level.v[layer][row, :, :length], want_v[0])
                    at += length
                assert at == len(text)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


class TieredMachine(StoreMachine):
    """The same with older tokens in other tiers: whole blocks move, nothing else changes."""

    @initialize(sequences=st.integers(1, 3), window=st.integers(0, 5), block=st.integers(1, 4))
    def start(self, sequences, window, block):
        super().start(sequences)
        self.window = window + block
        homes = [HostTier(Budget("host")), DiskTier()]
        self.store = TieredStore(
            sequences, CAPACITY, homes, Budget("device"), window=window, block=block, room=12,
            staging_bytes=64,
        )  # fmt: skip

    @invariant()
    def keeps_few_on_the_device(self):
        if hasattr(self, "window") and len(self.store.levels) == 2:
            assert int(self.store.levels[1].length.max()) < self.window or self.window == 0


TestTieredStore = TieredMachine.TestCase
TestTieredStore.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_limits_are_errors():
    store = KVStore(1, 1, 4)
    with pytest.raises(SpecdecError, match="cannot stage slot 5"):
        store.stage(0, [0], *kv([[1, 2, 3, 4, 5]], 0), 0)
    store.stage(0, [0], *kv([[1, 2]], 0), 0)
    store.commit(0, [0, 1])
    with pytest.raises(SpecdecError, match="cannot crop"):
        store.crop(0, 3)
    store.stack([s // 2 for s in range(2 * store.sequences)], 4)
    with pytest.raises(SpecdecError, match="of which 2 are shared"):
        store.crop(1, 1)


def test_fork_copies_nothing():
    store = KVStore(1, 1, 8)
    store.stage(0, [0], *kv([[1, 2, 3]], 0), 0)
    store.commit(0, [0, 1, 2])
    before = store.levels[0].k[0].data_ptr(), store.nbytes
    store.stack([s // 5 for s in range(5 * store.sequences)], 8)
    assert (store.levels[0].k[0].data_ptr(), store.nbytes) == before
    assert store.row_maps[0].tolist() == [0] * 5


def test_a_device_has_its_copy_of_the_lengths():
    """At one address, right whenever it is asked for; `cpu:0` stands for a device of its own."""
    store, device = KVStore(1, 2, 8), torch.device("cpu", 0)
    level = store.levels[0]
    assert level.lengths_on(torch.device("cpu")) is level.length
    copy = level.lengths_on(device)
    assert copy.data_ptr() != level.length.data_ptr()
    store.stage(0, [0, 1], *kv([[1, 2, 3], [4, 5, 6]], 0), 0)
    for step in (
        lambda: store.commit(0, [0, 2]),
        lambda: store.commit(1, [0]),
        lambda: store.crop(0, 1),
        lambda: level.resize(1, 3),
    ):
        step()
        assert level.lengths_on(device) is copy
        assert torch.equal(copy, level.length)
    assert level.length.tolist() == [1, 3]
