"""LongSpec: what it drafts from, how much it keeps, and the trees it drafts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec import Engine, Prompt
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.speculative import Speculative
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.longspec.window import SLACK, Window
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import hostile, longspec_models, models

TEXT = [(7 * i * i + 3 * i) % models.VOCAB for i in range(30)]
KINDS = ["llama", "llama-mha", "llama-3-groups", "qwen3", "gemma3", "gpt-oss", "mistral", "phi3"]


@pytest.fixture(scope="module", params=KINDS)
def engine(request):
    return Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture
def saved(llama, tmp_path):
    longspec_models.checkpoint(llama.target).save(tmp_path)
    return tmp_path


def row_of(text, index=0):
    return Row(index, index, list(text), len(text), len(text) + 40, None, len(text))


def drafting(engine, rows, ids=None):
    """A cached target that has read the rows, and a random block that drafts for it."""
    made = longspec_models.checkpoint(engine.target, ids)
    parts = fitted(engine.target, made.block(), made.ids)
    verifier = CachedModel(engine.target, FullView(), rows)
    model = LongSpecModel(engine.target, parts, verifier)
    return model, parts


def dense(engine, parts, text, lag):
    """Logits after every token of `text`, by the forward pass that training uses."""
    target, layer = engine.target, parts.block.sizes.kv_layer
    store = target.new_store(1, len(text))
    target.prefill(store, FullView(), 0, text)
    k, v = store.levels[0].k[layer], store.levels[0].v[layer]
    embedded = target.model.get_input_embeddings()(torch.tensor([text]))
    positions = torch.arange(len(text))[None]
    h = parts.block(embedded.to(k.dtype), positions, k, v, parts.rotary, lag)
    return parts.head(h)[0]


@torch.inference_mode()
def test_drafting_computes_what_training_did(engine):
    """A chain along the text, over a window shorter than it: draft d is training with lag d."""
    length, depth = 20, 6
    row = row_of(TEXT[:length])
    model, parts = drafting(engine, [row])
    logits = model.forward([row], [TokenTree.root(row.tokens[-1])])[0]
    for d in range(1, depth + 1):
        want = dense(engine, parts, TEXT[: length + d], d)[length + d - 2]
        torch.testing.assert_close(logits[-1], want, rtol=1e-9, atol=1e-9)
        _, grown = model.grow([row], [[TEXT[length + d - 1]]], [[d - 1]])
        logits = grown[0]


@torch.inference_mode()
def test_branches_and_ragged_rows_do_not_meet(engine):
    """A bushy tree for two rows of different length gives each path what it has alone."""
    rows = [row_of(TEXT[:9], 0), row_of(TEXT[5:22], 1)]
    model, parts = drafting(engine, rows)
    model.forward(rows, [TokenTree.root(row.tokens[-1]) for row in rows])
    first, _ = model.grow(rows, [[1, 2, 3], [4, 5]], [[0, 0, 0], [0, 0]])
    last, logits = model.grow(rows, [[6, 7], [8]], [[first + 2, first], [first + 1]])
    assert (first, last) == (1, 4)
    for row, place, path in ((0, 0, [3, 6]), (0, 1, [1, 7]), (1, 0, [5, 8])):
        text = [*rows[row].tokens, *path]
        torch.testing.assert_close(
            logits[row, place], dense(engine, parts, text, 3)[-1], rtol=1e-9, atol=1e-9
        )


@torch.inference_mode()
def test_only_the_draft_vocabulary_is_drafted(llama):
    ids = torch.tensor([3, 5, 8, 30])
    row = row_of(TEXT[:12])
    model, parts = drafting(llama, [row], ids)
    logits = model.forward([row], [TokenTree.root(row.tokens[-1])])[0][0]
    assert model.ids.tolist() == ids.tolist() and logits.shape == ids.shape
    torch.testing.assert_close(logits, dense(llama, parts, TEXT[:12], 1)[-1])


@torch.inference_mode()
def test_memory_does_not_grow_with_the_context(llama):
    """Nor does anything else of the drafter: the keys it reads are the target's own buffers."""
    sizes = []
    for length in (10, 100, 200):
        row = row_of((TEXT * 10)[:length])
        model, _ = drafting(llama, [row])
        tree = TokenTree.root(row.tokens[-1])
        for _ in range(3):
            model.forward([row], [tree])
            model.grow([row], [[1, 2]], [[0, 0]])
        sizes.append(model.nbytes)
        assert len(model.window.tokens[0]) <= longspec_models.WINDOW + SLACK
        held = [x for x in vars(model).values() if isinstance(x, torch.Tensor)]
        assert sum(x.nbytes for x in held) <= _ids_bytes(model)
    assert len(set(sizes)) == 1


def _ids_bytes(model):
    return 0 if model.ids is None else model.ids.nbytes


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 90)), min_size=1, max_size=12))
def test_window_follows_any_text(edits):
    """Tokens are taken back and added at random; the slots hold what a fresh window would."""

    def read(tokens, first):
        places = torch.arange(first, first + len(tokens), dtype=torch.float64)
        pair = torch.stack([torch.tensor(tokens, dtype=torch.float64), places], -1)
        return pair[None, None], -pair[None, None]

    window, text, seen = Window(1, 5, read([0], 0)), [], 0
    for back, more in edits:
        del text[max(0, len(text) - back) :]
        text += [(seen + i) % 7 for i in range(more)]
        seen += more + 1
        window.follow(0, text, read)
        start, count = window.start[0], int(window.length[0])
        assert start <= max(0, len(text) - 4) and start + count == len(text)
        k, v = read(text[start:], start)
        torch.testing.assert_close(window.k[0, :, :count], k[0])
        torch.testing.assert_close(window.v[0, :, :count], v[0])


PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6, [9, 8, 7, 9, 8, 7, 9]]


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"temperature": 0.9, "seed": 3, "num_return_sequences": 2}],
    ids=["one", "forked"],
)
@pytest.mark.parametrize("drafter", ["longspec", "ngram+longspec"])
def test_from_a_folder_with_others_and_samples(llama, saved, drafter, kwargs):
    """Forked rows share their prompt's KV, and other drafters move the text on in between."""
    kwargs = {"max_new_tokens": 20, **kwargs}
    want = llama.generate(PROMPTS, drafter="none", **kwargs)
    out = llama.generate(PROMPTS, drafter=drafter, draft_model=saved, draft_nodes=9, **kwargs)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]
    assert sum(g.stats.num_draft_tokens for g in out) > 0


@pytest.mark.parametrize("shares_kv", [True, False])
@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
def test_inside_another_drafter(llama, shares_kv, acceptance):
    """As the lowest of three levels, where rows run ahead of what the target has cached."""

    def nested(target, options):
        inner = longspec_models.untrained(target, options)
        return Speculative("outer", target, FullView(), inner, target.vocab_size, 5, shares_kv)

    kwargs = {"max_new_tokens": 20, "acceptance": acceptance}
    if acceptance == "coupled":
        kwargs |= {"temperature": 0.8, "seed": 5}
    want = llama.generate(PROMPTS, drafter="none", **kwargs)
    out = llama.generate(PROMPTS, drafter=nested, **kwargs)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]
    assert all(g.stats.num_spec_steps < 10 for g in out)  # the outer level is the target itself


def proposed(target, **options):
    """The tree that a random block proposes greedily."""
    made = longspec_models.checkpoint(target)
    parts = fitted(target, made.block(), None)
    drafter = LongSpec(target, LongSpecOptions(draft_model=parts, **options))
    row = row_of(TEXT[:12])
    row.sampler = _Greedy()
    drafter.join([row], CachedModel(target, FullView(), [row]))
    with torch.inference_mode():
        return drafter.propose([row], [10])[0]


@pytest.mark.parametrize("shape", ["4-8-8", (1, 2), "3-16-16-16"])
def test_static_trees_have_their_shape(llama, shape):
    depths = proposed(llama.target, draft_tree=shape).depths()
    levels = [int(x) for x in shape.split("-")] if isinstance(shape, str) else list(shape)
    assert [depths.count(d + 1) for d in range(max(depths))] == levels


def test_a_budget_keeps_the_most_probable_nodes(llama):
    """The same tree grown without a budget and with one: the cut one holds its best nodes."""
    big = proposed(llama.target, num_draft_tokens=4, draft_width=8)
    small = proposed(llama.target, num_draft_tokens=4, draft_nodes=10)
    assert len(big) == 33 and len(small) == 10
    paths = {tuple(big.path_tokens(i)) for i in range(len(big))}
    assert {tuple(small.path_tokens(i)) for i in range(len(small))} <= paths


class _Greedy:
    samples = False
    processors = ()


BAD = [{"draft_tree": "4-x"}, {"draft_tree": "200-200"}, {"draft_tree": "4-4", "draft_width": 2}]


@pytest.mark.parametrize("options", [*BAD, {"draft_nodes": 0}])
def test_bad_shapes_are_refused(llama, saved, options):
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        llama.generate([1], drafter="longspec", draft_model=saved, **options)


@torch.inference_mode()
def test_a_shift_of_all_positions_changes_nothing(llama):
    """Rotation is relative: what is read of the target is rotated as the target's keys are."""
    row, moved = row_of(TEXT[:12]), row_of(TEXT[:12])
    moved.content = Prompt(TEXT[:12], positions=torch.arange(12) + 50)
    found = []
    for one in (row, moved):
        model, _ = drafting(llama, [one])
        first = model.forward([one], [TokenTree.root(one.tokens[-1])])[0]
        found.append((first, model.grow([one], [[3, 4]], [[0, 0]])[1]))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # rotary tables are float32


def test_a_chain_ends_where_its_path_is_unlikely_and_a_tree_does_not(llama):
    """By default; a number that is given counts for both."""
    parts = longspec_models.parts_of(llama.target)

    def drafted(**given):
        def made(target, options):
            return LongSpec(target, LongSpecOptions(draft_model=parts, **given))

        return sum(llama.generate([1, 2, 3], drafter=made, max_new_tokens=16).stats.drafted)

    assert drafted() < drafted(min_draft_prob=0.0)
    assert drafted(min_draft_prob=0.35) == drafted()
    assert drafted(draft_width=2) == drafted(draft_width=2, min_draft_prob=0.0)
    assert drafted(draft_width=2) > drafted(draft_width=2, min_draft_prob=0.9)
