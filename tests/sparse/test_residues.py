"""What stands for tokens that are left out: means of neighbours with their log-count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.registry import VIEWS
from specdec.sampling.tree import TokenTree
from specdec.sparse.maths.merge_runs import merge_runs, runs
from specdec.sparse.residues.base import Rest
from specdec.sparse.residues.merged_runs import MergedRuns
from specdec.sparse.residues.neighbour_means import NeighbourMeans

from helpers import models
from helpers.passes import make_row

pytestmark = pytest.mark.fast


def test_means_and_counts_are_those_of_the_tokens_left_out():
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 23, 4)), rng.normal(size=(2, 23, 4))
    kept = rng.random((2, 23)) < 0.4
    kept[0, 8:16] = True  # a group with nothing left
    found = NeighbourMeans(8).entries(Rest(*map(torch.from_numpy, (k, v, kept, np.ones((2, 23))))))
    for head in range(2):
        for group, start in enumerate(range(0, 23, 8)):
            left = [t for t in range(start, min(23, start + 8)) if not kept[head, t]]
            weight = found.log_weight[head, group].item()
            assert weight == pytest.approx(np.log(len(left)) if left else -np.inf)
            if left:
                np.testing.assert_allclose(found.k[head, group], k[head, left].mean(0))
                np.testing.assert_allclose(found.v[head, group], v[head, left].mean(0))


def test_runs_of_what_is_left_out_are_entries():
    """Counts are those of the tokens; there are no more runs than a share, where they can merge."""
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 40, 4)), rng.normal(size=(2, 40, 4))
    kept = rng.random((2, 40)) < 0.1
    rest = Rest(*map(torch.from_numpy, (k, v, kept, rng.random((2, 40)))))
    found = MergedRuns(0.5, 1.0).entries(rest)
    left = (~kept).sum(1)
    torch.testing.assert_close(found.log_weight.exp().sum(1), torch.from_numpy(left).double())
    assert found.k.shape == found.v.shape == (2, found.log_weight.shape[1], 4)
    assert found.log_weight.shape[1] <= round(0.5 * left.max())
    run = runs(rest.k, ~rest.kept, round(0.5 * left.max()), 1.0)
    keys, values, number = merge_runs(rest.k, rest.v, ~rest.kept, rest.score, run)
    for got, whole in ((found.k, keys), (found.v, values)):
        for head in range(2):
            mine = found.log_weight[head].isfinite()
            torch.testing.assert_close(got[head, mine], whole[head, number[head] > 0])


@torch.inference_mode()
def test_equal_neighbours_lose_nothing():
    """Where all keys that are left out are alike, what stands for them is exact: the view's logits
    are the full view's. Without it they are not."""
    target = Engine(models.build("llama", dtype=torch.float64)).target
    row = make_row(0, [3] * 60 + [1, 2, 5, 7, 8, 4, 6, 3] * 2)
    base = CachedModel(target, FullView(), [row], recorder=QueryRecorder(window=32))
    level = base.store.levels[0]
    for layer in range(target.num_layers):
        for x in (level.k[layer], level.v[layer]):
            x[:, :, :60] = x[:, :, :1]  # whatever is left out of these is like the others
    tree = TokenTree.root(row.tokens[-1])
    want = CachedModel(target, FullView(), [row], base=base).forward([row], [tree])[0]
    options = {"budget": 32, "sink": 4, "recent": 16}
    gaps = []
    for name in ("snapkv-merged", "snapkv"):
        view = VIEWS[name].method(options).view(target)
        draft = CachedModel(target, view, [row], base=base)
        gaps.append((draft.forward([row], [tree])[0] - want).abs().max().item())
    assert gaps[0] < 1e-9 < 1e-4 < gaps[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_drafts_with_it_leave_the_text_as_it_is(name, dtype):
    engine = Engine(models.build(name, dtype=dtype, head_dim=16))
    prompts = [[(7 * i * i + 3) % 40 for i in range(n)] for n in (90, 50)]
    how = {"max_new_tokens": 24, "eos_token_id": []}
    want = engine.generate(prompts, drafter="none", **how)
    got = engine.generate(
        prompts, drafter="snapkv-merged", budget=24, sink=2, recent=4, num_draft_tokens=4, **how
    )
    assert [x.token_ids for x in got] == [x.token_ids for x in want]
