"""Methods that select by a draft's own queries: what they read in a model, against NumPy over its
keys, values and queries."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.sampling.tree import TokenTree
from specdec.sparse import layer_select
from specdec.sparse.codecs.projected import Projected
from specdec.sparse.codecs.unturned import Unturned
from specdec.sparse.methods.shadowkv import ShadowKV
from specdec.sparse.methods.sparf import SparF
from specdec.sparse.tails.mean_value_view import MeanTails

from helpers.passes import make_row
from helpers.selected import TEXT, Run, S, best

CHUNKS, TAIL = divmod(S, 8)


class Asked(Run):
    """Also the queries `[Hkv, G, D]` by which each layer selects."""

    def chosen(self, method):
        asked, select = {}, layer_select.select

        def noted(policy, pass_, call, b, segments):
            asked[call.layer] = call.q[b, :, 0].unflatten(0, (self.heads, -1)).numpy()
            return select(policy, pass_, call, b, segments)

        with patch.object(layer_select, "select", noted):
            return self.select(method), asked

    def logits(self, view):
        """Those of a draft's first pass."""
        row = make_row(0, TEXT)
        base = CachedModel(self.target, FullView(), [row])
        draft = CachedModel(self.target, view, [row], base=base)
        with torch.inference_mode():
            return draft.forward([row], [TokenTree.root(TEXT[-1])])[0]

    def turned(self, k, back=False):
        """Keys `[Hkv, T, D]` rotated by position as Llama does, or back."""
        config = self.target.model.config
        half = k.shape[-1] // 2
        theta = config.rope_parameters["rope_theta"] ** (-np.arange(half) / half)
        angle = np.arange(k.shape[1])[:, None] * theta * (-1 if back else 1)
        a, b = k[..., :half], k[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


@pytest.fixture(scope="module", params=["llama", "llama-mha"])
def run(request):
    return Asked(request.param)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("outliers", [0.0, 0.4])
def test_shadowkv(run, outliers):
    """Outliers first, the others by softmax(q . landmark), the greatest over a group's heads; keys
    of what is chosen by score alone out of the SVD of all keys before rotation."""
    method = ShadowKV(budget=64, sink=0, recent=16, outliers=outliers, key_share=0.5)
    chosen, asked = run.chosen(method)
    count = (64 - TAIL) // 8
    apart = int(outliers * 64) // 8
    for layer, found in chosen.items():
        k, heads = run.k[layer], run.heads
        chunks = k[:, : CHUNKS * 8].reshape(heads, CHUNKS, 8, -1)
        mean = chunks.mean(2)
        cosine = np.einsum("hpsd,hpd->hps", chunks, mean)
        cosine /= np.linalg.norm(chunks, axis=-1) * np.linalg.norm(mean, axis=-1)[..., None]
        odd = np.argsort(cosine.min(-1), axis=1)[:, :apart]
        flat = run.turned(k[:, : CHUNKS * 8], back=True).swapaxes(0, 1).reshape(CHUNKS * 8, -1)
        rank = int(0.5 * flat.shape[1]) // 4 * 4
        u, s, vt = np.linalg.svd(flat, full_matrices=False)
        low = ((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(CHUNKS * 8, heads, -1)
        low = run.turned(low.swapaxes(0, 1)).reshape(chunks.shape)
        for h in range(heads):
            logits = np.einsum("gd,pd->gp", asked[layer][h], mean[h]) * k.shape[-1] ** -0.5
            logits[:, odd[h]] = -np.inf
            score = softmax(logits).max(0)
            score[odd[h]] = 2
            last = -(-max(0, 16 - TAIL) // 8)
            assert set(found.pages[h].tolist()) == best(score, count, 0, last)
            exact = found.keys.exact[h].tolist()
            forced = {*odd[h].tolist(), *range(CHUNKS - last, CHUNKS)}
            assert {p for p, e in zip(found.pages[h].tolist(), exact) if e} == forced
            pages = found.pages[h]
            got = found.keys.keys(0, torch.full_like(pages, h), pages)
            np.testing.assert_allclose(got, low[h, pages.numpy()], atol=1e-5)  # float32 angles


def test_shadowkv_in_all_directions_reads_the_keys_themselves(run):
    """A copy that loses nothing gives what keys in the store give; one that does, does not."""
    exact = ShadowKV(budget=64, sink=0, recent=16, key_share=1.0).view(run.target)
    want = run.logits(exact)
    for share, is_same in ((1.0, True), (0.3, False)):
        view = ShadowKV(budget=64, sink=0, recent=16, key_share=0.3).view(run.target)
        codec = view.keys.view.codec
        side = Unturned(Projected(share), codec.keys.rotation)
        copy = replace(view.keys.view, codec=replace(codec, keys=side))
        got = run.logits(replace(view, keys=replace(view.keys, view=copy)))
        assert torch.allclose(got, want, atol=1e-5) == is_same


def test_sparf(run):
    """Tokens by the r strongest channels of each query; a softmax(q K_j) V_j + (1 - a) mean(V)."""
    seen, attend, budget = {}, MeanTails.attend, 40

    def noted(self, call):
        seen[call.layer] = call, attend(self, call)
        return seen[call.layer][1]

    method = SparF(budget=budget, sink=2, recent=3, query_channels=3)
    with patch.object(MeanTails, "attend", noted):
        chosen, asked = run.chosen(method)
    assert set(chosen) == set(run.layers)
    for layer, found in chosen.items():
        k, v, q = run.k[layer], run.v[layer], asked[layer]
        call, (o, lse) = seen[layer]
        dim, group = k.shape[-1], q.shape[1]
        for h in range(run.heads):
            strong = np.argsort(-abs(q[h]), axis=1)[:, :3]
            mine = np.take_along_axis(q[h], strong, 1)
            share = abs(mine).sum(1) / abs(q[h]).sum(1)
            x = np.stack([k[h][:, i] @ y for i, y in zip(strong, mine)])
            s = softmax(x / np.sqrt(dim * share)[:, None])
            tokens = best(s.max(0), budget, 2, 3)
            assert set(found.pages[h].tolist()) == tokens
            j = sorted(tokens)
            logits = q[h] @ k[h, j].T * dim**-0.5
            a = s[:, j].sum(1)
            want = a[:, None] * (softmax(logits) @ v[h, j]) + (1 - a[:, None]) * v[h].mean(0)
            mine = slice(h * group, (h + 1) * group)
            np.testing.assert_allclose(o[0, mine, 0], want, atol=1e-6)  # the softmax is in float32
            log_mass = np.log(np.exp(logits).sum(1)) - np.log(a)
            np.testing.assert_allclose(lse[0, mine, 0], log_mass, atol=1e-6)
