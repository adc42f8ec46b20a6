"""The same bits at any width: a node of a tree has the logits of plain decoding."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView

from helpers.stored_gguf import VOCAB, write_gguf

TEXT = torch.randint(0, VOCAB, (600,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("bits") / "tiny.gguf"
    finer = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q5_0", "token_embd.weight": "Q8_0"}
    write_gguf(path, "Q4_K", finer, context=1024)
    engine = Engine.from_pretrained(path, device="cpu")
    assert engine.packing.activations == "int8"
    return engine


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


@pytest.mark.parametrize("drafter", ["none", "ngram", "snapkv"])
def test_a_text_alone_and_in_company(engine: Engine, drafter: str) -> None:
    """Beside texts that begin like it, and as one of several samples: what is rounded is not shared
    unless one asks for it."""
    prompts = [TEXT[:520], TEXT[:520] + [3, 4], TEXT[:300], TEXT[40:90]]
    how = {"max_new_tokens": 24, "temperature": 0.9, "seed": 3, "eos_token_id": []}
    alone = [engine.generate(p, drafter="none", **how).token_ids for p in prompts]
    together = engine.generate(prompts, drafter=drafter, **how)
    assert [one.token_ids for one in together] == alone
    samples = engine.generate(prompts[0], drafter=drafter, n=2, **how)
    assert samples[0].token_ids == alone[0] != samples[1].token_ids
    assert len(engine.generate(prompts, share_prefixes=True, **how)) == len(prompts)
