"""The same bits at any width: a node of a tree has the logits of plain decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.cache.slots import Slots
from specdec.decoding.cached_model import CachedModel
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import rounded
from helpers.stored_gguf import VOCAB

TEXT = torch.randint(0, VOCAB, (600,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return rounded.engine()


def words(masks: list[int], batch: int = 1) -> torch.Tensor:
    """Ancestor masks of up to 64 nodes, as passes take them."""
    signed = [mask - (1 << 64) if mask >> 63 else mask for mask in masks]
    return torch.tensor(signed).view(1, -1, 1).repeat(batch, 1, 1)


def plain(engine: Engine, path: list[int], read: int) -> torch.Tensor:
    """Logits after each token of a text from `read` on, one by one; what is before is a prompt."""
    target, view = engine.target, FullView()
    store = target.new_store(1, len(path) + 1)
    target.prefill(store, view, 0, path[:read])
    out = []
    for at in range(read, len(path)):
        where = torch.tensor([[at]])
        pass_ = ForwardPass(store, view, [0], where, anc=words([1]))
        out.append(target.forward([[path[at]]], pass_)[0, 0])
        store.commit(0, range(1))
    return torch.stack(out)


@torch.inference_mode()
@pytest.mark.parametrize("read", [40, 250, 509])  # the last ones: trees over a cut of the keys
@pytest.mark.parametrize("width", [2, 5, 24, 64])
def test_a_node_of_a_tree(engine: Engine, read: int, width: int) -> None:
    """Along every path, at any place in any tree, in batches, with one thread or two."""
    random = torch.Generator().manual_seed(width)
    parents = [-1] + [int(torch.randint(max(0, i - 4), i, (), generator=random))
                      for i in range(1, width)]  # fmt: skip
    tokens = torch.randint(0, VOCAB, (width,), generator=random).tolist()
    masks, paths = [], []
    for node, parent in enumerate(parents):
        masks.append(1 << node | (masks[parent] if parent >= 0 else 0))
        paths.append([*(paths[parent] if parent >= 0 else []), node])
    leaf = max(paths, key=len)
    wanted = plain(engine, TEXT[:read] + [tokens[node] for node in leaf], read)
    target, view = engine.target, FullView()
    before = torch.get_num_threads()
    for batch, threads in ((1, 1), (1, 2), (3, 2)):
        torch.set_num_threads(threads)
        try:
            store = target.new_store(batch, read + width + 1)
            for row in range(batch):
                target.prefill(store, view, row, TEXT[:read])
            where = torch.tensor([[read + len(path) - 1 for path in paths]] * batch)
            pass_ = ForwardPass(
                store, view, list(range(batch)), where, anc=words(masks, batch),
                staged_positions=where,
            )  # fmt: skip
            logits = target.forward([tokens] * batch, pass_)
        finally:
            torch.set_num_threads(before)
        for row in logits:
            assert torch.equal(row[leaf], wanted)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
def test_however_a_text_was_read(engine: Engine, threads: int) -> None:
    """All at once, in chunks of any size, token by token, or in turns of these."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wanted = keys_and_values(engine, [590])
        ways = [[100] * 5 + [90], [256, 256, 78], [64] * 9 + [14], [1, 2, 3, 1, 300, 1, 1, 1, 280],
                [233] + [7] * 7 + [230] + [1] * 78, [1] * 280 + [310]]  # fmt: skip
        for way in ways:
            assert torch.equal(keys_and_values(engine, way), wanted), way
    finally:
        torch.set_num_threads(before)


def keys_and_values(engine: Engine, parts: list[int]) -> torch.Tensor:
    """Of a text that is read in parts: one of a single token as a node, others as chunks."""
    target, view, at = engine.target, FullView(), 0
    store = target.new_store(1, 700)
    for size in parts:
        if size == 1:
            pass_ = ForwardPass(store, view, [0], torch.tensor([[at]]), anc=words([1]))
            target.forward([[TEXT[at]]], pass_)
            store.commit(0, range(1))
        else:
            target.prefill(store, view, 0, TEXT[at : at + size])
        at += size
    level = store.levels[-1]
    return torch.cat([x[0, :, :at].flatten() for x in (*level.k, *level.v) if x is not None])


@torch.inference_mode()
@pytest.mark.parametrize("shared", [0, 30, 256, 300, 520, 551])
@pytest.mark.parametrize("drafted", [1, 7])
def test_prompts_that_begin_alike(engine: Engine, shared: int, drafted: int) -> None:
    """Read once for all, in a tree of levels, and copied as far as levels do not reach."""
    first = TEXT[:shared]
    prompts = [first + TEXT[i : i + size] for i, size in ((40, 31), (40, 80), (7, 40), (3, 1))]
    prompts += [TEXT[50:60], prompts[0]]
    trees = [TokenTree.chain(prompt[-1], TEXT[i : i + drafted - 1])
             for i, prompt in enumerate(prompts)]  # fmt: skip

    def logits(rows: list[Row]) -> tuple[torch.Tensor, int]:
        model = CachedModel(engine.target, FullView(), rows, slots=Slots(len(rows)))
        made = model.forward(rows, [trees[row.index] for row in rows])
        return made, len(model.store.levels)

    rows = [row_of(i, i, prompt) for i, prompt in enumerate(prompts)]
    together, levels = logits(rows)
    assert (levels > 1) == (shared >= 256)
    for i, prompt in enumerate(prompts):
        assert torch.equal(together[i], logits([row_of(i, 0, prompt)])[0][0]), i


def row_of(index: int, slot: int, prompt: list[int]) -> Row:
    size = len(prompt)
    sampler = Sampler([], False, Noise(0))
    row = Row(index, 0, list(prompt), size, size + 20, sampler, size)
    row.slot = slot
    return row


@torch.inference_mode()
@pytest.mark.parametrize("width", [3, 8, 33])
def test_what_was_accepted_in_parts(engine: Engine, width: int) -> None:
    """Keys that came from wide passes are those of plain decoding, over and over."""
    target, view = engine.target, FullView()
    wanted = plain(engine, TEXT[:300], 201)
    store = target.new_store(1, 400)
    target.prefill(store, view, 0, TEXT[:201])
    found = []
    for at in range(201, 300 - width + 1, width):
        where = torch.arange(at, at + width)[None]
        masks = words([(1 << i + 1) - 1 for i in range(width)])
        pass_ = ForwardPass(store, view, [0], where, anc=masks, staged_positions=where)
        found.append(target.forward([TEXT[at : at + width]], pass_)[0])
        store.commit(0, range(width))
    made = torch.cat(found)
    assert torch.equal(made, wanted[: len(made)])


def test_texts_of_drafters(engine: Engine) -> None:
    """Greedy and seeded: what no tie can part."""
    for settings in ({}, {"temperature": 0.9, "seed": 3}):
        texts = [
            engine.generate(TEXT[:50] * 2, max_new_tokens=60, drafter=drafter, **settings).token_ids
            for drafter in ("none", "ngram", "streaming")
        ]
        assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("drafter", ["none", "ngram", "snapkv", "quest"])
@pytest.mark.parametrize("share", [None, False])
def test_a_text_alone_and_in_company(engine: Engine, drafter: str, share: bool | None) -> None:
    """Beside texts that begin like it, and as one of several samples."""
    prompts = [TEXT[:520], TEXT[:520] + [3, 4], TEXT[:300], TEXT[40:90]]
    how = {"max_new_tokens": 24, "temperature": 0.9, "seed": 3, "eos_token_id": []}
    alone = [engine.generate(p, drafter="none", **how).token_ids for p in prompts]
    how["share_prefixes"] = share
    together = engine.generate(prompts, drafter=drafter, **how)
    assert [one.token_ids for one in together] == alone
    samples = engine.generate(prompts[0], drafter=drafter, n=2, **how)
    assert samples[0].token_ids == alone[0] != samples[1].token_ids


def test_a_prompt_that_was_saved(engine: Engine, tmp_path: Path) -> None:
    """What goes on from it is what it would be if all were read now."""
    how = {"max_new_tokens": 24, "eos_token_id": []}
    wanted = engine.generate(TEXT[:400], **how).token_ids
    engine.save_prompt(TEXT[:333], tmp_path / "saved")
    found = engine.generate(TEXT[:400], saved_prompt=tmp_path / "saved", **how)
    assert found.token_ids == wanted
