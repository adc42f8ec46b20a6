"""Layers of a fused run share a table of reads, and the shape of what was selected with it."""

from __future__ import annotations

import torch

from specdec.cache.store import KVStore
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.forward.host_reads import host_reads
from specdec.forward.plan import LayerPlan, RowPlan, Selection


def test_layers_that_select_different_numbers_have_tables_of_their_own():
    store = KVStore(4, 1, 64)
    for layer in range(4):
        store.levels[0].buffers(layer, *(torch.zeros(1, 2, 1, 8) for _ in range(2)))
    store.levels[0].resize(0, 40)
    anc = torch.ones(1, 1, 1, dtype=torch.int64)
    pass_ = ForwardPass(store, FullView(), [0], torch.tensor([[40]]), anc=anc)

    def reads(layer, count, size=1):
        pages = torch.arange(count).expand(2, -1)
        chosen = Selection(0, pages, (40,), size)
        return host_reads(pass_, LayerPlan((RowPlan((40,), chosen, count),)), layer, None)

    first, same, fewer, larger = reads(0, 6), reads(1, 6), reads(2, 5), reads(3, 6, 4)
    assert first.table is same.table
    assert first.pages.shape == same.pages.shape == (1, 2, 6)
    assert fewer.table is not first.table and fewer.pages.shape == (1, 2, 5)
    assert larger.table is not first.table and larger.page_size == 4
