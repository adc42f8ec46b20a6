"""The same bits whoever drafts: each node of each verification has plain decoding's logits."""

from __future__ import annotations

from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec.decoding.cached_model import CachedModel
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.registry import DRAFTERS

from helpers import rounded
from helpers.contract import DRAFTERS as SHAPES
from helpers.contract import OURS
from helpers.methods import METHODS, smallest
from helpers.stored_gguf import VOCAB

TEXT = torch.randint(0, VOCAB, (400,), generator=torch.Generator().manual_seed(6)).tolist()
PROMPTS = [TEXT[i * 40 : i * 40 + size] for i, size in enumerate((90, 70, 100, 64, 80, 75, 95, 66))]
NEW, LOOKED_AT = 6, 40
OWN_BLOCKS = ("longspec", "specvlm")  # made of a target that is not packed
NAMES = sorted(set(DRAFTERS) - {"none"} | set(SHAPES))
DEFAULT = ("auto-whim", "model-tree", "snapkv", "triforce")


@pytest.fixture(scope="module")
def engine():
    return rounded.engine()


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
def test_every_drafter(engine, plain, name, tmp_path):
    """By name: each of the registry, views as drafters too, and each shape of the contract; batches
    of 1 to 8, one thread and two, some forty nodes each. Draft nodes that are refused count like
    the others. `none` is plain decoding itself."""
    options = dict(SHAPES.get(name, {"drafter": name}))
    drafter = options.pop("drafter")
    if name.startswith(OWN_BLOCKS):
        drafter = rounded.block(name)
    elif name in METHODS:
        options |= smallest(name, engine)
    elif name == "cacheblend":
        options["saved_documents"] = folders = [tmp_path / "first", tmp_path / "second"]
        for folder, start in zip(folders, (200, 300), strict=True):
            engine.save_prompt(TEXT[start : start + 50], folder)
    needs_model = isinstance(drafter, str) and ("model" in drafter or "cascade" in drafter)
    if needs_model or options.get("draft_model") == OURS:
        options["draft_model"] = rounded.draft()
    number = NAMES.index(name)
    check(engine, plain, drafter, 1 + number % 8, 1 + number % 2, **options)
