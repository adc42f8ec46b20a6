"""Methods that read a copy in another form: as a view they are near, with enough they are exact."""

from __future__ import annotations

import pytest
import torch

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.errors import UnsupportedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.sampling.tree import TokenTree
from specdec.sparse.methods.cskv import CSKV
from specdec.sparse.methods.gear import Gear
from specdec.sparse.methods.kvmerger import KVMerger
from specdec.sparse.methods.lizard import Lizard
from specdec.sparse.methods.mikv import MiKV
from specdec.sparse.methods.minicache import MiniCache
from specdec.sparse.methods.rotatekv import RotateKV
from specdec.sparse.methods.x_ecomla import XEcoMLA
from specdec.sparse.methods.xkv import XKV
from specdec.sparse.methods.zipcache import ZipCache

from helpers import models
from helpers.passes import make_row

TOKENS = [(7 * i * i + 3) % 40 for i in range(200)]
SMALL = {"budget": 24, "sink": 2, "recent": 4}
# A method; settings under which it loses nothing, or hardly anything; how far it may be off.
METHODS = {
    "gear": (Gear(), Gear(kv_bits=8, rank=8), 2e-2),
    "rotatekv": (RotateKV(recent=8), RotateKV(recent=8, kv_bits=8), 5e-2),
    "cskv": (CSKV(), None, 0),
    "xkv": (XKV(recent=8), XKV(recent=8, key_share=1.0, value_share=1.0), 1e-5),
    "minicache": (MiniCache(recent=8), MiniCache(recent=8, retained=1.0), 1e-5),
    "x-ecomla": (XEcoMLA(recent=8, latent_share=0.2), XEcoMLA(recent=8, latent_share=1.0), 1e-5),
    "mikv": (MiKV(**SMALL), MiKV(**SMALL, exact_share=1.0), 1e-5),
    "zipcache": (ZipCache(recent=8), ZipCache(recent=8, salient_bits=8, salient_share=1.0), 5e-2),
    "kvmerger": (KVMerger(**SMALL), KVMerger(**{**SMALL, "budget": 400}), 1e-5),
    "lizard": (Lizard(recent=8), Lizard(features=16, recent=400), 1e-5),
}  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "gemma3", "llama-mha", "qwen3"])
def target(request):
    return Engine(models.build(request.param, head_dim=8)).target


@torch.inference_mode()
@pytest.mark.parametrize("name", METHODS)
def test_near_and_with_enough_exact(target, name):
    method, enough, gap = METHODS[name]
    if name == "minicache" and len(target.full_layers) < 2:
        with pytest.raises(UnsupportedModel, match="pairs of layers"):
            method.view(target)
        return
    row = make_row(0, TOKENS)
    tree = TokenTree.root(row.tokens[-1])
    for made in filter(None, (method, enough)):
        view = made.resolved(target, None).view(target)
        assert view.name == name
        base = CachedModel(target, FullView(), [row], recorder=QueryRecorder.of(view.needs))
        want = CachedModel(target, FullView(), [row], base=base).forward([row], [tree])[0]
        draft = CachedModel(target, view, [row], base=base)
        got = draft.forward([row], [tree])[0]
        assert got.isfinite().all()
        error = (got - want).abs().max()
        assert error <= gap if made is enough else error > 1e-6
        if made is method and target.num_layers == len(target.full_layers):
            read = draft.reads(0)[name]
            assert all(b < full for b, full in zip(read.bytes, read.full_bytes, strict=True))


def test_a_model_with_nothing_to_keep_is_refused():
    target = Engine(models.build("mistral")).target
    for method in (Gear(), XKV(), ZipCache(), MiKV(), KVMerger(), Lizard()):
        with pytest.raises(UnsupportedModel, match="sliding window"):
            method.view(target)
