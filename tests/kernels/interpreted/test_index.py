"""The Triton kernels that choose what a pass reads, against their plain twins.

See `test_attention.py`.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.kernels.selection import topk_pages_triton
from specdec.kernels.selection.topk_pages import topk_pages

from helpers.triton_drawn import DEVICE, EXAMPLES, LENGTHS, PAGE, Drawn


@EXAMPLES
@given(data=st.data())
def test_topk_pages(data):
    """Forced pages in their places, the rest by score, nothing twice, -1 behind the last."""
    d = Drawn(data)
    page = d.one_of(1, 3, PAGE)
    most = d.one_of(1, 2, 33, 70)
    counts = [d.draw(st.integers(0, most)) for _ in range(d.batch)]
    tails = [d.draw(st.integers(0, 2 * page)) for _ in range(d.batch)]
    sink, recent = d.one_of(0, 1, page + 1), d.one_of(0, 2, 4 * page)
    budget = d.one_of(0, page - 1, sink + recent + page, 20 * page, 200 * page)
    scores = torch.randn(d.batch, d.kv_heads, most, generator=d.generator)
    if d.one_of(False, True):
        scores = scores.round()  # equal ones
    options = dict(page_size=page, budget=budget, sink=sink, recent=recent)
    numbers = [torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in (counts, tails)]
    for op in (topk_pages.plain, topk_pages.triton):
        chosen = op(scores.clone().to(DEVICE), *numbers, **options).cpu()
        assert chosen.shape[2] == min(most, budget // page)
        for b, (full, tail) in enumerate(zip(counts, tails)):
            count = min(full, max(0, budget - tail) // page)
            first = set(range(min(full, -(-sink // page))))
            last = set(range(full - min(full, -(-max(0, recent - tail) // page)), full)) - first
            for head in range(d.kv_heads):
                pages = chosen[b, head].tolist()
                assert all(p == -1 for p in pages[count:])
                pages = pages[:count]
                assert len(set(pages)) == count and all(0 <= p < full for p in pages)
                forced = min(count, len(first) + len(last))
                assert set(pages[:forced]) <= first | last
                assert set(pages[: len(first)]) <= first
                free = scores[b, head, sorted(set(range(full)) - first - last)]
                want = free.sort(descending=True).values[: count - forced]
                assert torch.equal(scores[b, head, pages[forced:]], want)


def test_topk_pages_of_a_long_text():
    """More scores than one step of the selection, more pages than one program ranks."""
    block, ranked = topk_pages_triton.BLOCK, topk_pages_triton.RANKED
    scores = torch.rand(1, 2, 2 * block + 3, generator=torch.Generator().manual_seed(0))
    numbers = [torch.tensor([n], dtype=torch.int32, device=DEVICE) for n in (2 * block + 1, 0)]
    options = dict(page_size=1, budget=ranked + 5, sink=4, recent=0)
    plain = topk_pages.plain(scores.clone().to(DEVICE), *numbers, **options)
    ours = topk_pages.triton(scores.clone().to(DEVICE), *numbers, **options)
    assert torch.equal(plain[..., 4:], ours[..., 4:])
    assert torch.equal(plain[..., :4].sort().values, ours[..., :4].sort().values)
    assert ours[0, 0, :4].tolist() == list(range(4)) and max(LENGTHS) < block
