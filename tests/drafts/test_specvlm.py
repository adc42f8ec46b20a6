"""SpecVLM: what it reads of images, what it keeps, and that all of an image is LongSpec."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from specdec import Engine, Prompt, Span
from specdec.cache.slots import Slots
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafting import make_drafter
from specdec.decoding.stream import GenerationStream
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.branches.pool import Pool
from specdec.drafts.specvlm.compressor import BRANCHES, Compressor
from specdec.drafts.specvlm.image import Entries, Image, ImageSizes
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import hostile, longspec_models, models
from helpers.matrix import crossed

IMAGE = 11  # tokens of an image
PLACES = (3, 17)  # where images begin
IDS = [(5 * i * i + i) % models.VOCAB for i in range(34)]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def engine(request):
    return Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


def prompt(seed=0, ids=IDS, places=PLACES):
    torch.manual_seed(seed)
    spans = [Span(start, torch.randn(IMAGE, 24, dtype=torch.float64)) for start in places]
    return Prompt(list(ids), spans)


def row_of(content, index=0):
    n = len(content.ids)
    return Row(index, index, list(content.ids), n, n + 20, None, n, content=content)


def drafting(engine, rows, branch=None, tokens=4):
    """A cached target that has read the rows, and a random block that drafts for it."""
    images = longspec_models.images(engine.target, window=64)
    parts = images.parts
    verifier = CachedModel(engine.target, FullView(), rows)
    whole = LongSpecModel(engine.target, parts, verifier)
    if branch is None:
        return whole
    return SpecVlmModel(engine.target, images, verifier, branch, tokens)


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
@pytest.mark.parametrize("branch", [*BRANCHES, "gate"])
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
    keys = np.concatenate((k[:, keep], entries.k[0].numpy()), 1)
    values = np.concatenate((v[:, keep], entries.v[0].numpy()), 1)
    stands_for = np.exp(entries.log_weight[0].numpy().astype(float))
    counts = np.concatenate((np.ones(keep.sum()), stands_for))
    torch.manual_seed(3)
    h, x = torch.randn(2, 1, 2, 24, dtype=torch.float64)
    positions = torch.tensor([[len(IDS), len(IDS) + 1]])
    q = model.block.cross_query(h, x, model.rotary, positions)[0].numpy()
    group = sizes.num_heads // sizes.num_kv_heads
    keys, values = (np.repeat(x, group, 0) for x in (keys, values))
    weights = np.exp(q @ keys.transpose(0, 2, 1) * sizes.head_dim**-0.5) * counts
    want = (weights / weights.sum(-1, keepdims=True)) @ values
    reads, scale = model._far([0]), sizes.head_dim**-0.5
    found = reads.attention(torch.from_numpy(q)[None], sizes.value_dim, scale)[0].numpy()
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)
    assert counts[keep.sum() :].sum() == pytest.approx(
        sum(0 if name == "text" else IMAGE * n for name, n in model.chosen.items())
    )
    assert model.chosen.total() == 2


def test_pooled_entries_are_means_of_keys_at_no_place():
    """Keys that differ by their places alone are one key, at the middle of the places."""
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    model = drafting(engine, [row_of(prompt())], "pool")
    plain = torch.randn(1, 2, 1, 8, dtype=torch.float64).expand(1, 2, 9, 8)
    positions = torch.arange(20, 29)
    turned = model.rotary.cross(plain, positions[None])
    entries = Pool(ImageSizes(2, 8, 8))(Image(turned, turned, positions[None]), 3, model.rotary)
    want = model.rotary.cross(plain[:, :, :3], torch.tensor([[21, 24, 27]]))
    torch.testing.assert_close(entries.k, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entries.log_weight, torch.full((1, 3), 3.0).log())


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


@pytest.mark.parametrize("branch", [*BRANCHES, "gate"])
def test_text_with_images_is_that_of_plain_decoding(llama, branch):
    engine = llama
    untrained = longspec_models.by(branch)
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


def test_learned_branches_are_the_formulas_that_they_tell():
    """Convolution, resampler and gate in NumPy, over keys at no place and normed embeddings."""
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    model = drafting(engine, [row_of(prompt())], "gate")
    compressor, sizes = model.compressor, model.compressor.sizes
    torch.manual_seed(2)
    plain, v = torch.randn(2, 1, 2, 9, 8, dtype=torch.float64)
    positions = torch.arange(20, 29)[None]
    seen = torch.randn(1, 9, 24, dtype=torch.float64)
    image = Image(model.rotary.cross(plain, positions), v, positions, seen)
    normed = lambda a: (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    x = [a[0].numpy().transpose(1, 0, 2).reshape(9, -1) for a in (plain, v)]
    x = np.concatenate([*x, normed(seen[0].numpy())], 1)
    weights = {name: p.numpy() for name, p in compressor.named_parameters()}

    def checked(branch, tokens, want, places, counts):
        entries = compressor(branch, image, tokens, model.rotary)
        for e, place in enumerate(places):
            k = model.rotary.cross(entries.k[:, :, e : e + 1], -torch.tensor([[place]]))
            found = np.concatenate([a[0].numpy().reshape(-1) for a in (k, entries.v[:, :, e])])
            np.testing.assert_allclose(found, want[e], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.exp(entries.log_weight[0].numpy()), counts, rtol=1e-6)
        assert entries.k.shape[2] == len(places)

    w, b = (weights[f"branches.convolution.mix.{name}"] for name in ("weight", "bias"))
    parts = w.reshape(sizes.width, sizes.stride, sizes.width + 24)
    y = [b + sum(parts[:, j] @ x[3 * e + j] for j in range(3)) for e in range(3)]
    checked("convolution", 5, y, [21, 24, 27], [3, 3, 3])

    r = {name.split(".", 2)[2]: p for name, p in weights.items() if "resampler" in name}
    heads = lambda a: a.reshape(len(a), sizes.num_kv_heads, -1).transpose(1, 0, 2)
    q, k, values = (
        heads(r["queries"][0]),
        heads(normed(x) @ r["key.weight"].T),
        heads(x @ r["value.weight"].T),
    )
    scores = np.exp(q @ k.transpose(0, 2, 1) * q.shape[-1] ** -0.5)
    mixed = (scores / scores.sum(-1, keepdims=True)) @ values
    y = mixed.transpose(1, 0, 2).reshape(2, -1) @ r["out.weight"].T + r["out.bias"]
    checked("resampler", 5, y, [24, 24], [4.5, 4.5])

    asked = torch.randn(1, 16, dtype=torch.float64)
    given = np.concatenate(
        [
            (a - a.mean()) / np.sqrt(a.var() + 1e-5)
            for a in (asked[0].numpy(), v[0].mean(1).flatten().numpy())
        ]
    )
    inner = weights["gate.inner.weight"] @ given + weights["gate.inner.bias"]
    logits = weights["gate.outer.weight"] @ (inner / (1 + np.exp(-inner)))
    logits = logits + weights["gate.outer.bias"]
    np.testing.assert_allclose(compressor.logits(asked, image)[0].numpy(), logits, rtol=1e-6)
    assert compressor.choose(asked, image) == [list(BRANCHES)[logits.argmax()]]


@torch.inference_mode()
@pytest.mark.parametrize("size", [1, 2, 9, 40, 200])
def test_entries_of_an_image_are_as_many_for_every_size(size):
    """Memory of an image is constant: never more than asked for, and all tokens stand in them."""
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    model = drafting(engine, [row_of(prompt())], "gate")
    k, v = torch.randn(2, 1, 2, size, 8, dtype=torch.float64)
    seen = torch.randn(1, size, 24, dtype=torch.float64)
    image = Image(k, v, torch.arange(size)[None], seen)
    for branch in BRANCHES:
        entries = model.compressor(branch, image, 4, model.rotary)
        count = entries.k.shape[2]
        assert count <= 4 and (size < 12 or count == {"text": 0, "resampler": 2}.get(branch, 4))
        assert entries.log_weight.exp().sum() == pytest.approx(size * (branch != "text"))


def comes_and_goes(engine, drafter, contents, new=14):
    """The second row leaves early, the third takes its slot: all drafts and texts, in order."""
    requests = [
        engine._request(
            content, None, {"max_new_tokens": n, "eos_token_id": [], "drafter": drafter}
        )
        for content, n in zip(contents, (new, 2, new))
    ]
    drafting = make_drafter(engine.target, requests[0], None)
    stream = GenerationStream(engine.target, requests[0], drafting, Slots(2, 80))
    stream.add(requests[1])
    for step in stream:
        if step.row == 1 and step.finish_reason:
            stream.add(requests[2])
    assert [row.slot for row in stream.rows] == [0, 1, 1]
    return stream.generations, drafting.own._model


CONTENTS = [prompt(), prompt(1, IDS[:31], (6, 19)), prompt(2, IDS[:30], (2, 15)), Prompt(IDS[:9])]


ORDERS = {
    "images": (0, 1, 2), "text first": (3, 1, 2), "text leaves": (0, 3, 1), "text joins": (0, 1, 3),
}  # fmt: skip


@crossed(together=1, branch=["prune", "convolution", "gate"], order=ORDERS)
def test_rows_with_and_without_images_come_and_go(llama, branch, order):
    """Texts and drafts are those of each alone, and what a row has left is forgotten."""
    contents = [CONTENTS[i] for i in ORDERS[order]]
    found, model = comes_and_goes(llama, longspec_models.by(branch), contents)
    for content, one in zip(contents, found):
        alone = llama.generate(
            content, drafter=longspec_models.by(branch), max_new_tokens=len(one.token_ids),
            eos_token_id=[],
        )  # fmt: skip
        assert one.token_ids == alone.token_ids
        assert one.stats.num_accepted_draft_tokens == alone.stats.num_accepted_draft_tokens
        assert one.stats.num_draft_tokens == alone.stats.num_draft_tokens
    assert not model.kept


def test_a_model_that_reads_another_rows_slot_is_found_out(llama, monkeypatch):
    """The mutant: entries are made of the slot with a row's number, and not of its own."""
    seen = []
    cached = SpecVlmModel._cached

    def by_index(self, row, start, end):
        taken = cached(self, replace(row, slot=row.index % 2), start, end)
        seen.append((row.index, cached(self, row, start, end)[0].equal(taken[0])))
        return taken

    monkeypatch.setattr(SpecVlmModel, "_cached", by_index)
    comes_and_goes(llama, longspec_models.by("prune"), CONTENTS[:3])
    assert {index for index, same in seen if same} == {0, 1}
    assert {index for index, same in seen if not same} == {2}


def test_hostile_entries_change_no_text(llama, monkeypatch):
    """Whatever a compressor makes up, huge, tiny or of no weight, is only drafted from."""
    generator = torch.Generator().manual_seed(0)

    def wild(self, name, image, tokens, rotary):
        scale = 10.0 ** float(torch.randint(-3, 4, (), generator=generator))
        k, v = (
            torch.randn(*image.k.shape[:2], 3, image.k.shape[-1], generator=generator) * scale
            for _ in range(2)
        )
        weight = torch.randn(1, 3, generator=generator) * scale
        return Entries(k.to(image.k), v.to(image.v), weight)

    monkeypatch.setattr(Compressor, "forward", wild)
    for extra in ({}, {"temperature": 1.0, "seed": 3}):
        want = llama.generate(CONTENTS, drafter="none", max_new_tokens=10, eos_token_id=[], **extra)
        found = llama.generate(
            CONTENTS, drafter=longspec_models.by("gate"), max_new_tokens=10, eos_token_id=[],
            **extra,
        )  # fmt: skip
        assert [x.token_ids for x in found] == [x.token_ids for x in want]


def test_branches_that_were_not_trained_are_refused(llama, tmp_path):
    engine = llama
    longspec_models.checkpoint(engine.target).save(tmp_path)
    for branch in ("gate", "convolution", "resampler"):
        with pytest.raises(InvalidArgument, match="train-drafter --images"):
            engine.generate([1], drafter="specvlm", draft_model=tmp_path, image_branch=branch)
    out = engine.generate(CONTENTS[0], drafter="specvlm", draft_model=tmp_path, max_new_tokens=4)
    assert len(out.token_ids) == 4


def test_options_are_checked():
    with pytest.raises(InvalidArgument, match="image_branch"):
        SpecVlmOptions(image_branch="shrink")
    with pytest.raises(InvalidArgument, match="image_tokens"):
        SpecVlmOptions(image_tokens=0)
