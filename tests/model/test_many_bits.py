"""The same bits over 10^5 nodes of random trees, in batches, with one thread and two."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView

from helpers import rounded
from helpers.stored_gguf import VOCAB

pytestmark = pytest.mark.slow
TEXT = torch.randint(0, VOCAB, (700,), generator=torch.Generator().manual_seed(4)).tolist()
READS = [1, 40, 200, 255, 300, 509, 600]  # tokens before a tree: some reach over a cut of the keys
BRANCHES, DEEP = 3, 64
NODES = 100_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    return rounded.engine()


def node_pass(engine, store, sequences, wheres, masks):
    """A pass over trees, and over their nodes `int64[B, N]` at the places `wheres`."""
    words = torch.from_numpy(np.array(masks, np.uint64).view(np.int64))[..., None]
    where = torch.tensor(wheres)
    return ForwardPass(
        store, FullView(), sequences, where, anc=words, staged_positions=where,
        layers=engine.target.num_layers,
    )  # fmt: skip


def branch(read: int, which: int) -> list[int]:
    """What may stand behind the first tokens of the text."""
    return random.Random(1000 * read + which).choices(range(VOCAB), k=DEEP)


@torch.inference_mode()
def plain_logits(engine: Engine, read: int, which: int) -> torch.Tensor:
    """After each token of a branch, one by one."""
    target, out = engine.target, []
    store = target.new_store(1, read + DEEP)
    target.prefill(store, FullView(), 0, TEXT[:read])
    for i, token in enumerate(branch(read, which)):
        out.append(target.forward([[token]], node_pass(engine, store, [0], [[read + i]], [[1]])))
        store.commit(0, range(1))
    return torch.cat(out)[:, 0]


@torch.inference_mode()
def test_all_nodes(engine: Engine) -> None:
    """Trees of 1 to 64 nodes that go some way along several branches, 1 to 8 of them at once, with
    one thread and two."""
    draw, target = random.Random(7), engine.target
    wanted = {(r, w): plain_logits(engine, r, w) for r in READS for w in range(BRANCHES)}
    before, seen = torch.get_num_threads(), 0
    try:
        while seen < NODES:
            torch.set_num_threads(draw.choice([1, 2]))
            reads = draw.choices(READS, k=draw.randint(1, 8))
            store = target.new_store(len(reads), max(READS) + 2 * DEEP)
            for row, read in enumerate(reads):
                target.prefill(store, FullView(), row, TEXT[:read])
            for _ in range(30):
                width = draw.randint(1, DEEP)
                trees = [a_tree(draw, width) for _ in reads]
                tokens = [[branch(read, which)[depth] for which, depth, _ in tree]
                          for read, tree in zip(reads, trees, strict=True)]  # fmt: skip
                wheres = [[read + depth for _, depth, _ in tree]
                          for read, tree in zip(reads, trees, strict=True)]  # fmt: skip
                masks = [[mask for *_, mask in tree] for tree in trees]
                pass_ = node_pass(engine, store, list(range(len(reads))), wheres, masks)
                found = target.forward(tokens, pass_)
                for row, (read, tree) in enumerate(zip(reads, trees, strict=True)):
                    right = torch.stack([wanted[read, which][depth] for which, depth, _ in tree])
                    assert torch.equal(found[row], right), (reads, width)
                seen += width * len(reads)
    finally:
        torch.set_num_threads(before)


def a_tree(draw: random.Random, width: int) -> list[tuple[int, int, int]]:
    """Nodes in any order in which those before others come first: branch, depth, ancestors."""
    nodes, ends = [], [0] * BRANCHES
    lines = [0] * BRANCHES
    for i in range(width):
        which = draw.choice([w for w in range(BRANCHES) if ends[w] < DEEP])
        lines[which] |= 1 << i
        nodes.append((which, ends[which], lines[which]))
        ends[which] += 1
    return nodes
