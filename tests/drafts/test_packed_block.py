"""A packed block in few calls is the same block, and is left alone where it would be another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from specdec import Engine, Prompt, Span
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import LongSpec
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.longspec.packed_block import PackedBlock
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.drafter import SpecVlm
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.drafts.specvlm.prepared import prepare
from specdec.forward.full_view import FullView
from specdec.kernels.dispatch import has_numba
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import Law, TokenTree

from helpers import hostile, longspec_models, models

pytestmark = pytest.mark.skipif(not has_numba(), reason="there is nothing to pack for")

HIDDEN, IMAGE = 64, 11
SIZES = dict(
    vocab_size=models.VOCAB, hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
IDS = [(5 * i * i + i) % models.VOCAB for i in range(40)]


def engine_of(kind, dtype=torch.float32):
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**SIZES)
    )
    return Engine(model.to(dtype).eval(), hostile.tokenizer(models.VOCAB))


def images_of(engine, kind="Llama", window=6, ids=None):
    """A random block for the engine, made of the same model as it was before it was packed."""
    target = engine_of(kind, torch.float64).target
    made = longspec_models.image_checkpoint(target, ids, window=window)
    return prepare(engine.target, made, "of this test")


@pytest.fixture(scope="module")
def engine():
    return engine_of("Llama")


def row(ids, index, places=()):
    content = None
    if places:
        torch.manual_seed(index)
        content = Prompt(list(ids), [Span(start, torch.randn(IMAGE, HIDDEN)) for start in places])
    n = len(ids)
    return Row(index, index, list(ids), n, n + 20, None, n, content=content)


def logits(model, rows):
    """After the root, after a branching level below it, and one further down."""
    first = model.forward(rows, [TokenTree.root(r.tokens[-1]) for r in rows])
    _, second = model.grow(rows, [[5, 7, 9] for _ in rows], [[0, 0, 1] for _ in rows])
    _, third = model.grow(rows[::-1], [[3] for _ in rows], [[3] for _ in rows])
    return torch.stack([torch.cat(x) for x in zip(first, second, third.flip(0))])


def both(make, images, rows):
    """Logits of the block in few calls, and in many."""
    with torch.inference_mode():
        found = []
        for packed in (images.parts.packed, None):
            parts = replace(images, parts=replace(images.parts, packed=packed))
            found.append(logits(make(parts), rows))
    return found


@pytest.mark.parametrize("window", [6, 64])
def test_texts(engine, window):
    images = images_of(engine, window=window)
    assert images.parts.packed is not None
    rows = [row(IDS, 0), row(IDS[:23], 1), row(IDS[:1], 2)]
    verifier = CachedModel(engine.target, FullView(), rows)

    def make(images):
        return LongSpecModel(engine.target, images.parts, verifier)

    found, want = both(make, images, rows)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, want)  # other kernels have run


def test_a_chain_longer_than_the_window_and_than_the_room_for_nodes(engine):
    images = images_of(engine)
    rows = [row(IDS, 0), row(IDS[:9], 1)]
    verifier = CachedModel(engine.target, FullView(), rows)

    def last(packed):
        model = LongSpecModel(engine.target, replace(images.parts, packed=packed), verifier)
        model.forward(rows, [TokenTree.root(r.tokens[-1]) for r in rows])
        for node in range(40):
            _, found = model.grow(rows, [[node % 7], [node % 5]], [[node], [node]])
        return found

    with torch.inference_mode():
        found, want = last(images.parts.packed), last(None)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("settings", [{}, {"draft_width": 3}, {"draft_nodes": 12}])
def test_the_same_is_drafted(engine, settings, samples):
    """Of a draft vocabulary, for two texts, with images and without; and laws are told as such."""
    torch.manual_seed(3)
    ids = torch.randperm(models.VOCAB)[: models.VOCAB // 2].sort().values
    images = images_of(engine, ids=ids)
    rows = [row(IDS, 0, (3, 17)), row(IDS[:31], 1)]
    verifier = CachedModel(engine.target, FullView(), rows)

    def drafted(packed):
        source = replace(images, parts=replace(images.parts, packed=packed))
        options = SpecVlmOptions(draft_model=source, image_branch="prune", **settings)
        drafter = SpecVlm(engine.target, options)
        drafter.min_prob = 0.0
        with torch.inference_mode():
            drafter.join(rows, verifier)
            return drafter.propose(rows, [5, 3])

    for one in rows:
        one.sampler = Sampler([], samples, Noise.of(1, one.tokens), "rejection")
    found, want = drafted(images.parts.packed), drafted(None)
    assert [(x.tokens, x.parents) for x in found] == [(x.tokens, x.parents) for x in want]
    assert all(set(x.tokens[1:]) <= set(ids.tolist()) and len(x) > 2 for x in found)
    for tree, other in zip(found, want):
        drawn = {tree.parents[node] for node, law in enumerate(tree.laws) if law is Law.DRAW}
        assert drawn == set(tree.draft_probs) == set(other.draft_probs) and bool(drawn) == samples
        for node, law in tree.draft_probs.items():
            assert law.shape == (models.VOCAB,) and set(law.nonzero()[:, 0].tolist()) <= set(
                ids.tolist()
            )
            torch.testing.assert_close(law, other.draft_probs[node], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(law.sum(), torch.ones_like(law.sum()))


@pytest.mark.parametrize("branch", ["prune", "pool", "convolution", "resampler", "text"])
def test_images(engine, branch):
    images = images_of(engine, window=64)
    rows = [row(IDS, 0, (3, 17)), row(IDS[:31], 1, (6,)), row(IDS[:9], 2)]
    verifier = CachedModel(engine.target, FullView(), rows)

    def make(images):
        return SpecVlmModel(engine.target, images, verifier, branch, 4)

    found, want = both(make, images, rows)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_rows_that_share_a_level_read_it_once(engine):
    images = images_of(engine)
    texts = [IDS[:30] + [7], IDS[:30] + [9]]
    want = [engine.generate(x, drafter="none", max_new_tokens=12).token_ids for x in texts]

    def drafter(target, options):
        return LongSpec(target, LongSpecOptions(**{**options.given, "draft_model": images.parts}))

    outs = engine.generate(texts, drafter=drafter, max_new_tokens=12)
    assert [out.token_ids for out in outs] == want


def test_heads_that_are_turned_in_pairs_are_left_alone():
    """GLM turns neighbours, and half of a head."""
    engine = engine_of("Glm")
    assert images_of(engine, "Glm").parts.packed is None


def test_a_block_that_is_not_packed_is_left_alone():
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))  # float64
    parts = longspec_models.images(engine.target).parts
    assert parts.packed is None
    assert PackedBlock.of(parts.block, parts.rotary, parts.head) is None
