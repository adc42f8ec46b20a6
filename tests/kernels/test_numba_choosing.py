"""Indices of pages, their scores, and the choice of the best, against the plain ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.numba_drawn import EXAMPLES, Drawn, judge

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.selection.chunk_scores import score_means, update_means
from specdec.kernels.selection.index_logits import index_logits
from specdec.kernels.selection.label_scores import score_labels, update_labels
from specdec.kernels.selection.page_bounds import score_bounds, update_bounds
from specdec.kernels.selection.select_pages import importance, select_by_index, select_pages


@EXAMPLES
@given(data=st.data())
def test_indices_and_their_scores(data):
    """Bounds, means and labels of rows that grow; NaN behind their lengths reaches nothing."""
    d = Drawn(data)
    rows, kv_heads, dim = d.one_of(1, 3), d.one_of(1, 2), d.one_of(8, 16, 24, 64)
    size, pages = d.one_of(1, 3, 16), d.one_of(1, 7, 300)
    length = torch.tensor([d.one_of(0, 1, size, pages * size) for _ in range(rows)]).int()
    since = torch.tensor([d.one_of(0, max(0, n - 1), n) for n in length.tolist()]).int()
    k = d.normal(rows, kv_heads, pages * size, dim)
    for row, end in enumerate(length.tolist()):
        k[row, :, end:] = torch.nan
    channels = torch.rand(rows, kv_heads, dim, generator=d.generator).argsort(-1)[..., :5].int()
    limit, tokens = d.one_of(1, pages), d.one_of(1, pages * size)
    made = {}
    for version in ("numba", "plain"):
        bounds = torch.zeros(rows, kv_heads, pages, 2, dim)
        means = torch.zeros(rows, kv_heads, pages, dim)
        labels = torch.zeros(rows, kv_heads, pages * size, 5)
        getattr(update_bounds, version)(bounds, k, since, length, page_size=size, pages=limit)
        getattr(update_means, version)(means, k, since, length, page_size=size, pages=limit)
        getattr(update_labels, version)(labels, k, channels, since, length, tokens=tokens)
        made[version] = bounds, means, labels
    assert torch.equal(made["numba"][0], made["plain"][0])
    torch.testing.assert_close(made["numba"][1], made["plain"][1])
    assert torch.equal(made["numba"][2], made["plain"][2])

    bounds, means, labels = (d.normal(*x.shape) for x in made["plain"])
    batch = d.one_of(1, 4)
    q = d.normal(batch, kv_heads * d.one_of(1, 3), d.one_of(1, 5), dim)
    row_map = torch.tensor([d.one_of(*range(rows)) for _ in range(batch)]).int()
    for op, args, kwargs in (
        (score_bounds, (bounds, length, row_map), {"page_size": size}),
        (score_means, (means, length, row_map), {"page_size": size}),
        (score_labels, (labels, channels, length, row_map), {}),
    ):
        wide = [x.double() if x.dtype == torch.float32 else x for x in args]
        ours, plain, exact = (
            op.numba(q, *args, **kwargs), op.plain(q, *args, **kwargs),
            op.plain(q.double(), *wide, **kwargs),
        )  # fmt: skip
        assert torch.equal(ours.isneginf(), exact.isneginf())
        terms = [x.abs() if x.dtype == torch.float64 else x for x in (q.double(), *wide)]
        sums = op.plain(*terms, **kwargs).nan_to_num(neginf=0.0)  # sums may cancel, their terms not
        most = sums.max().item() if sums.numel() else 0.0
        judge(*(x.nan_to_num(neginf=0.0) for x in (ours, plain, exact.double())), max(1.0, most))


@EXAMPLES
@given(data=st.data())
def test_index_logits(data):
    """A part of a larger buffer, of any width."""
    d = Drawn(data)
    heads, pages, width = d.one_of(1, 3), d.one_of(0, 1, 255, 256, 600), d.one_of(3, 16, 40, 64)
    signed = d.one_of(False, True)
    index = d.normal(heads, 700, width * (1 + signed))[:, :pages]
    q, kwargs = d.normal(heads, d.one_of(1, 9, 20), width), {"scale": 0.3, "signed": signed}
    exact = index_logits.plain(q.double(), index.double(), **kwargs)
    judge(index_logits.numba(q, index, **kwargs), index_logits.plain(q, index, **kwargs), exact)


@EXAMPLES
@given(data=st.data())
def test_select_by_index(data):
    """In one call what the two ops do in turn."""
    d = Drawn(data)
    heads, pages, width, signed = 2, d.one_of(1, 30, 300), d.one_of(5, 16), d.one_of(False, True)
    index = d.normal(heads, 310, width * (1 + signed))[:, :pages]
    q, asked = d.normal(heads, d.one_of(1, 6), width), {"scale": 0.3, "signed": signed}
    how = {"votes": d.one_of("max", "mean"), "pool": d.one_of(1, 3), "all_heads": False,
           "count": d.one_of(0, 1, pages), "first": 0, "last": d.one_of(0, 1)}  # fmt: skip
    chosen = select_by_index.numba(q, index, **asked, **how)
    logits = index_logits.numba(q, index, **asked)
    assert torch.equal(chosen, select_pages.numba(logits, per_page=1, **how))
    plain = select_by_index.plain(q, index, **asked, **how)
    assert torch.equal(plain, select_pages.plain(index_logits.plain(q, index, **asked),
                                                 per_page=1, **how))  # fmt: skip


@pytest.mark.parametrize("all_heads", [False, True])
@pytest.mark.parametrize("votes", ["max", "mean"])
def test_select_pages(votes, all_heads):
    """Each page once, best first, the first and the last in front; ties in any order."""

    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        pages, per_page = d.one_of(1, 2, 40, 500), d.one_of(1, 1, 8)
        kwargs = {
            "votes": votes, "pool": d.one_of(1, 3, 5), "per_page": per_page,
            "all_heads": all_heads, "count": d.one_of(0, 1, pages // 2, pages),
            "first": d.one_of(0, 1, pages), "last": d.one_of(0, 1, pages),
        }  # fmt: skip
        logits = d.normal(d.one_of(1, 3), d.one_of(1, 9), pages * per_page) * d.one_of(0.0, 1.0, 30)
        kept = logits.clone()
        score = importance(logits.double(), votes, kwargs["pool"], per_page)
        if all_heads:
            score = score.amax(0, keepdim=True).expand_as(score).clone()
        score[:, pages - kwargs["last"] :] = 2.0
        score[:, : kwargs["first"]] = 3.0
        want = score.topk(kwargs["count"], dim=-1).values
        for version in ("numba", "plain"):
            chosen = getattr(select_pages, version)(logits.clone(), **kwargs)
            assert chosen.shape == want.shape and chosen.dtype == torch.int64
            assert all(len(set(head)) == len(head) for head in chosen.tolist())
            torch.testing.assert_close(score.gather(1, chosen), want, rtol=1e-4, atol=1e-6)
            assert not all_heads or (chosen == chosen[:1]).all()
        assert torch.equal(kept, logits)

    check()
