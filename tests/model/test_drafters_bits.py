"""The same bits whoever drafts: each node of each verification has plain decoding's logits."""

from __future__ import annotations

from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.drafter import SpecVlm
from specdec.drafts.specvlm.prepared import prepare
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.loading.loader import load
from specdec.model.target import Target
from specdec.registry import DRAFTERS

from helpers import hostile, longspec_models, models
from helpers.contract import DRAFTERS as SHAPES
from helpers.contract import OURS
from helpers.methods import METHODS, smallest
from helpers.stored_gguf import VOCAB, write_gguf

TEXT = torch.randint(0, VOCAB, (400,), generator=torch.Generator().manual_seed(6)).tolist()
PROMPTS = [TEXT[i * 40 : i * 40 + size] for i, size in enumerate((90, 70, 100, 64, 80, 75, 95, 66))]
NEW, LOOKED_AT = 6, 40
OWN_BLOCKS = ("longspec", "specvlm")  # made of a target that is not packed: see `block_of`
NAMES = sorted(set(DRAFTERS) - {"none"} | set(SHAPES))
DEFAULT = ("auto-whim", "model-tree", "snapkv", "triforce")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("bits") / "tiny.gguf"
    finer = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q5_0", "token_embd.weight": "Q8_0"}
    write_gguf(path, "Q4_K", finer, context=1024)
    return path


@pytest.fixture(scope="module")
def engine(path):
    engine = Engine(load(path, device="cpu").model, hostile.tokenizer(VOCAB))
    assert engine.packing.activations == "int8" and engine.target.keeps_bits
    return engine


@pytest.fixture(scope="module")
def numbers(path):
    """The same weights as float32, for blocks and drafts that are made of them."""
    return load(path, dtype="float32", device="cpu")[0]


@pytest.fixture(scope="module")
def draft(numbers):
    return models.disturbed(numbers, 0.01)


@pytest.fixture(scope="module")
def plain(engine):
    """A function of a text: the logits after it, of its last token as plain decoding's only node;
    how it was read before does not matter (test_bits.py)."""
    known, target = {}, engine.target

    @torch.inference_mode()
    def after(text):
        if text not in known:
            store, at = target.new_store(1, len(text) + 1), len(text) - 1
            target.prefill(store, FullView(), 0, list(text[:-1]))
            one = torch.ones(1, 1, 1, dtype=torch.long)
            pass_ = ForwardPass(store, FullView(), [0], torch.tensor([[at]]), anc=one)
            known[text] = target.forward([[text[-1]]], pass_)[0, 0]
        return known[text]

    return after


@contextmanager
def verifications(target):
    """All nodes that are verified meanwhile: the text up to each, and its logits."""
    seen, forward = [], CachedModel.forward

    def noted(self, rows, trees, best=False):
        made = forward(self, rows, trees, best)
        if self.target is target and self.base is None and self.view.lossless:
            for row, tree, logits in zip(rows, trees, made, strict=True):
                texts = []
                for token, parent in zip(tree.tokens, tree.parents, strict=True):
                    above = tuple(row.tokens[:-1]) if parent < 0 else texts[parent]
                    texts.append((*above, token))
                seen.extend(zip(texts, logits.clone(), strict=True))
        return made

    with patch.object(CachedModel, "forward", noted):
        yield seen


def block_of(numbers, name):
    """A block of random weights that begins with the file's weights as numbers."""
    floats = Target(numbers)
    ids = torch.arange(0, floats.vocab_size, 2)

    def drafter(target, options):
        if name.startswith("longspec"):
            parts = fitted(target, longspec_models.checkpoint(floats).block(), ids)
            return LongSpec(
                target,
                LongSpecOptions(**{"min_draft_prob": 0.0, **options.given, "draft_model": parts}),
            )
        parts = prepare(target, longspec_models.image_checkpoint(floats, ids), "of this test")
        return SpecVlm(
            target, SpecVlmOptions(**{"min_draft_prob": 0.0, **options.given, "draft_model": parts})
        )

    return drafter


def check(engine, plain, drafter, rows, threads, **options):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    how = {"max_new_tokens": NEW, "temperature": 0.9, "seed": 3, "eos_token_id": []}
    try:
        with verifications(engine.target) as seen:
            engine.generate(PROMPTS[:rows], drafter=drafter, **how, **options)
        assert len(seen) >= rows * NEW / 2
        for text, logits in seen[:: max(1, len(seen) // LOOKED_AT)]:
            assert torch.equal(plain(text), logits), (len(text), len(seen))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_every_drafter(engine, plain, numbers, draft, name, tmp_path):
    """By name: each of the registry, views as drafters too, and each shape of the contract; batches
    of 1 to 8, one thread and two, some forty nodes each. Draft nodes that are refused count like
    the others. `none` is plain decoding itself."""
    options = dict(SHAPES.get(name, {"drafter": name}))
    drafter = options.pop("drafter")
    if name.startswith(OWN_BLOCKS):
        drafter = block_of(numbers, name)
    elif name in METHODS:
        options |= smallest(name, engine)
    elif name == "cacheblend":
        options["saved_documents"] = folders = [tmp_path / "first", tmp_path / "second"]
        for folder, start in zip(folders, (200, 300), strict=True):
            engine.save_prompt(TEXT[start : start + 50], folder)
    needs_model = isinstance(drafter, str) and ("model" in drafter or "cascade" in drafter)
    if needs_model or options.get("draft_model") == OURS:
        options["draft_model"] = draft
    number = NAMES.index(name)
    check(engine, plain, drafter, 1 + number % 8, 1 + number % 2, **options)
