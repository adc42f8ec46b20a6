"""Pools of pages near the device: what is asked for is there, and fetched only if it was not."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.forward.near_pages import Pool

PAGES, SIZE = 12, 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pages_are_where_they_are_said_to_be(data):
    """Random choices of pages a head, some with keys of another kind, and texts that shrink."""
    heads = data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    text = torch.from_numpy(rng.normal(size=(3, heads, PAGES, SIZE, 4)))  # keys, others, values
    pool, there = Pool(SIZE), [set() for _ in range(heads)]
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            length = data.draw(st.integers(0, PAGES * SIZE))
            pool.crop(length)
            there = [{x for x in mine if x[0] < length // SIZE} for mine in there]
            fresh = torch.from_numpy(rng.normal(size=(3, heads, PAGES, SIZE, 4)))
            text[:, :, length // SIZE :] = fresh[:, :, length // SIZE :]
        count = data.draw(st.integers(1, PAGES))
        pages = np.stack([rng.permutation(PAGES)[:count] for _ in range(heads)])
        pages[rng.random(heads) < 0.5, data.draw(st.integers(0, count)) :] = -1
        exact = rng.random(pages.shape) < 0.5
        asked = []

        def fetch(h, page, own):
            asked.extend(zip(h.tolist(), page.tolist(), own.tolist()))
            k = torch.where(own[:, None, None], text[0, h, page], text[1, h, page])
            return k, text[2, h, page]

        slots = pool.hold(pages, exact, fetch)
        wanted = [
            {(p, e) for p, e in zip(*row) if p >= 0} for row in zip(pages.tolist(), exact.tolist())
        ]
        new = {(h, *x) for h in range(heads) for x in wanted[h] - there[h]}
        assert sorted(asked) == sorted(new)
        for h, at in np.argwhere(pages >= 0).tolist():
            page, slot = pages[h, at], slots[h, at]
            torch.testing.assert_close(pool.k[h, slot], text[int(~exact[h, at]) & 1, h, page])
            torch.testing.assert_close(pool.v[h, slot], text[2, h, page])
        assert (slots[pages < 0] == -1).all()
        held = pool.held
        there = [{(x // 2, bool(x % 2)) for x in held[h].tolist() if x >= 0} for h in range(heads)]
        assert all(wanted[h] <= there[h] for h in range(heads))
