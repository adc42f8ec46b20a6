"""SpecVLM: what it reads of images, what it keeps, and that all of an image is LongSpec."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec import Engine, Prompt, Span
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import fitted
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.branches import BRANCHES
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import hostile, longspec_models, models

IMAGE = 11  # tokens of an image
PLACES = (3, 17)  # where images begin
IDS = [(5 * i * i + i) % models.VOCAB for i in range(34)]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def engine(request):
    return Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))


def prompt(seed=0, ids=IDS, places=PLACES):
    torch.manual_seed(seed)
    spans = [Span(start, torch.randn(IMAGE, 24, dtype=torch.float64)) for start in places]
    return Prompt(list(ids), spans)


def row_of(content, index=0):
    n = len(content.ids)
    return Row(index, index, list(content.ids), n, n + 20, None, n, content=content)


def drafting(engine, rows, branch=None, tokens=4):
    """A cached target that has read the rows, and a random block that drafts for it."""
    made = longspec_models.checkpoint(engine.target, window=64)
    parts = fitted(engine.target, made.block(), made.ids)
    verifier = CachedModel(engine.target, FullView(), rows)
    whole = LongSpecModel(engine.target, parts.block, parts.rotary, parts.head, parts.ids, verifier)
    if branch is None:
        return whole
    return SpecVlmModel(engine.target, parts, verifier, BRANCHES[branch], tokens)


def drafted(model, rows):
    """Logits after the root, and after two tokens below it."""
    first = model.forward(rows, [TokenTree.root(row.tokens[-1]) for row in rows])
    _, more = model.grow(rows, [[5, 7] for _ in rows], [[0, 1] for _ in rows])
    return torch.stack([torch.cat((a, b)) for a, b in zip(first, more)])


@torch.inference_mode()
@pytest.mark.parametrize("branch", ["prune", "pool"])
def test_an_entry_for_every_token_is_longspec(engine, branch):
    rows = [row_of(prompt()), row_of(prompt(1, IDS[:31], (6, 19)), 1)]
    want = drafted(drafting(engine, rows), rows)
    found = drafted(drafting(engine, rows, branch, IMAGE), rows)
    near = 1e-9 if branch == "prune" else 1e-5  # keys are turned back and again, in float32
    torch.testing.assert_close(found, want, rtol=near, atol=near)
    fewer = drafted(drafting(engine, rows, branch, 4), rows)
    assert branch == "pool" or (fewer - want).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("branch", ["prune", "pool", "text"])
def test_cross_attention_is_that_over_text_and_entries(engine, branch):
    """The formula over all keys at once, in NumPy: weights of tokens that an entry stands for."""
    row = row_of(prompt())
    model = drafting(engine, [row], branch)
    drafted(model, [row])
    sizes, layer = model.block.sizes, model.block.sizes.kv_layer
    level = model.holder.store.levels[0]
    k, v = (x[layer][0, :, : len(IDS) - 1].numpy() for x in (level.k, level.v))
    keep = np.ones(len(IDS) - 1, bool)
    for start in PLACES:
        keep[start : start + IMAGE] = False
    entries = model.kept[0]
    keys = np.concatenate((k[:, keep], entries.k.numpy()), 1)
    values = np.concatenate((v[:, keep], entries.v.numpy()), 1)
    counts = np.concatenate((np.ones(keep.sum()), np.exp(entries.log_weight.numpy().astype(float))))
    torch.manual_seed(3)
    h = torch.randn(1, 2, 24, dtype=torch.float64)
    positions = torch.tensor([[len(IDS), len(IDS) + 1]])
    q = model.block.cross_query(h, model.rotary, positions)[0].numpy()
    group = sizes.num_heads // sizes.num_kv_heads
    keys, values = (np.repeat(x, group, 0) for x in (keys, values))
    weights = np.exp(q @ keys.transpose(0, 2, 1) * sizes.head_dim**-0.5) * counts
    want = (weights / weights.sum(-1, keepdims=True)) @ values
    found = model._far(h, positions, [0])[0].numpy()
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)
    assert counts[keep.sum() :].sum() == pytest.approx(0 if branch == "text" else 2 * IMAGE)


def test_pooled_entries_are_means_of_keys_at_no_place():
    """Keys that differ by their places alone are one key, at the middle of the places."""
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    model = drafting(engine, [row_of(prompt())], "pool")
    plain = torch.randn(1, 2, 1, 8, dtype=torch.float64).expand(1, 2, 9, 8)
    positions = torch.arange(20, 29)
    turned = model.rotary.cross(plain, positions[None])[0]
    from specdec.drafts.specvlm.branches import Image, pool

    entries = pool(Image(turned, turned, positions), 3, model.rotary)
    want = model.rotary.cross(plain[:, :, :3], torch.tensor([[21, 24, 27]]))[0]
    torch.testing.assert_close(entries.k, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entries.log_weight, torch.full((3,), 3.0).log())


@torch.inference_mode()
def test_memory_is_the_same_for_every_length_of_text_and_grows_by_entries(engine):
    sizes = []
    for extra, places in ((0, PLACES), (12, PLACES), (0, PLACES[:1]), (0, ())):
        row = row_of(prompt(ids=[*IDS, *IDS[:extra]], places=places))
        model = drafting(engine, [row], "prune")
        drafted(model, [row])
        sizes.append(model.nbytes)
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
    assert sizes[0] - sizes[2] == sizes[2] - sizes[3]


@pytest.mark.parametrize("branch", ["prune", "pool", "text"])
def test_text_with_images_is_that_of_plain_decoding(engine, branch):
    def untrained(target, options):
        return longspec_models.untrained_specvlm(
            target, options, image_branch=branch, image_tokens=3
        )

    prompts = [prompt(), prompt(1, IDS[:31], (6, 19)), Prompt(IDS[:9])]
    want = engine.generate(prompts, drafter="none", max_new_tokens=12, eos_token_id=[])
    for extra in ({}, {"draft_tree": "3-4"}):
        found = engine.generate(
            prompts, drafter=untrained, max_new_tokens=12, eos_token_id=[], **extra
        )
        assert [x.token_ids for x in found] == [x.token_ids for x in want]
    drawn = [
        engine.generate(prompts, drafter=drafter, max_new_tokens=8, temperature=1.0, seed=3)
        for drafter in ("none", untrained)
    ]
    assert [x.token_ids for x in drawn[0]] == [x.token_ids for x in drawn[1]]


def test_options_are_checked():
    with pytest.raises(InvalidArgument, match="image_branch"):
        SpecVlmOptions(image_branch="shrink")
    with pytest.raises(InvalidArgument, match="image_tokens"):
        SpecVlmOptions(image_tokens=0)
