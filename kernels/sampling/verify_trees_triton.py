"""verify_trees on a GPU: one program a sequence; a tree's nodes stand side by side in registers."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # tokens of one step over a law


def walk_trees(choices: Tensor, tokens: Tensor, parents: Tensor) -> Tensor:
    """See `specdec.kernels.sampling.verify_trees`."""
    batch, nodes = parents.shape
    paths = torch.full_like(parents, -1)
    _walk[(batch,)](
        choices.contiguous(), tokens.contiguous(), parents.contiguous(), paths, nodes,
        NODES=triton.next_power_of_2(nodes), enable_fp_fusion=True,
    )  # fmt: skip
    return paths


def traverse_trees(
    target: Tensor, draft: Tensor, tokens: Tensor, parents: Tensor, laws: Tensor, tests: Tensor
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.sampling.verify_trees`."""
    batch, nodes, vocab = target.shape
    assert target.is_contiguous() and target.dtype == draft.dtype
    device = target.device
    tokens, parents, laws, tests = (
        x.to(device, non_blocking=True).contiguous() for x in (tokens, parents, laws, tests)
    )
    draft = draft.contiguous()
    paths, used = torch.full_like(parents, -1), parents.new_empty(batch)
    _traverse[(batch,)](
        target, draft, draft.clone(), tokens, parents, laws, tests, paths, used,
        nodes, vocab, tests.shape[1],
        NODES=triton.next_power_of_2(nodes), BLOCK=BLOCK, num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    return paths, used


@triton.jit
def _at(n, node, x):
    """Element `node` of `x`, whose elements stand at places `n`."""
    return tl.sum(tl.where(n == node, x, 0), 0)


@triton.jit
def _walk(choices, tokens, parents, paths, nodes, NODES: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, NODES)
    parent = tl.load(parents + b * nodes + n, mask=n < nodes, other=-1)
    token = tl.load(tokens + b * nodes + n, mask=n < nodes, other=-1)
    node, depth = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    while node < NODES:
        tl.store(paths + b * nodes + depth, node)
        chosen = tl.load(choices + b * nodes + node)
        below = (parent == node) & (token == chosen)
        node = tl.min(tl.where(below, n, NODES), 0)
        depth += 1


@triton.jit
def _traverse(
    target, draft, rest, tokens, parents, laws, tests, paths, used, nodes, vocab, most,
    NODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, NODES)
    inside = n < nodes
    parent = tl.load(parents + b * nodes + n, mask=inside, other=-1)
    token = tl.load(tokens + b * nodes + n, mask=inside, other=0)
    law = tl.load(laws + b * nodes + n, mask=inside, other=0)
    target += b * nodes * vocab
    draft += b * nodes * vocab
    rest += b * nodes * vocab  # draft laws without rejected tokens, to be multiplied by `scale`
    live = parent >= 0
    keep = tl.where(n == 0, 1.0, 0.0).to(tl.float64)
    scale = tl.full([NODES], 1.0, tl.float64)
    node, taken = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    going = tl.full([], 1, tl.int32)
    while going > 0:
        child = tl.min(tl.where(live & (parent == node), n, NODES), 0)
        while child < NODES:
            at = node.to(tl.int64) * vocab + _at(n, child, token)
            q = tl.full([], 1.0, tl.float64)
            kind = _at(n, child, law)
            if kind == 1:
                q = tl.load(rest + at).to(tl.float64) * _at(n, node, scale)
            if kind == 2:
                q = tl.load(draft + at).to(tl.float64)
            p = tl.load(target + at).to(tl.float64)
            if p + q == p + q:
                ratio = tl.where(q > 0.0, p / tl.where(q > 0.0, q, 1.0), 0.0)
                kept = tl.minimum(_at(n, node, keep) * ratio, 1.0)
                keep = tl.where(n == child, kept, keep)
                node = child
            else:  # a law that is no number: drafts end here
                live = live & (parent != node)
            child = tl.min(tl.where(live & (parent == node), n, NODES), 0)
        if node == 0:
            going = tl.full([], 0, tl.int32)
        else:
            test = tl.load(tests + b * most + taken)
            taken += 1
            if test < _at(n, node, keep):
                going = tl.full([], 0, tl.int32)
            else:
                up = _at(n, node, parent)
                row = up.to(tl.int64) * vocab
                gone, kind = _at(n, node, token), _at(n, node, law)
                owed, scaled = _at(n, up, keep), _at(n, up, scale)
                mass = tl.zeros([], tl.float64)
                for start in range(0, vocab, BLOCK):
                    i = start + tl.arange(0, BLOCK)
                    r = _residual(target, draft, rest, row, i, vocab, owed, kind, gone, scaled)
                    mass += tl.sum(r, 0)
                if mass > 0.0:
                    inverse = 1.0 / mass
                    for start in range(0, vocab, BLOCK):
                        i = start + tl.arange(0, BLOCK)
                        r = _residual(target, draft, rest, row, i, vocab, owed, kind, gone, scaled)
                        r = (r * inverse).to(target.dtype.element_ty)
                        tl.store(target + row + i, r, mask=i < vocab)
                left = mass + 1.0 - owed
                owed = tl.where(left > 0.0, mass / tl.where(left > 0.0, left, 1.0), 1.0)
                keep = tl.where(n == up, owed, keep)
                live = live & (n != node)
                tl.debug_barrier()
                if tl.max(tl.where(parent == up, law, 0), 0) > 0:
                    total = tl.zeros([], tl.float64)
                    for start in range(0, vocab, BLOCK):
                        i = start + tl.arange(0, BLOCK)
                        q = tl.load(rest + row + i, mask=i < vocab, other=0.0)
                        q = tl.where(i == gone, 0.0, q)
                        tl.store(rest + row + i, q, mask=i == gone)
                        total += tl.sum(q.to(tl.float64), 0)
                    now = tl.where(total > 0.0, 1.0 / tl.where(total > 0.0, total, 1.0), 1.0)
                    scale = tl.where(n == up, now, scale)
                    tl.debug_barrier()
                node = up
    tl.store(used + b, taken)
    depth, above = tl.full([], 0, tl.int32), _at(n, node, parent)
    while above >= 0:
        depth += 1
        above = _at(n, above, parent)
    while node >= 0:
        tl.store(paths + b * nodes + depth, node)
        depth -= 1
        node = _at(n, node, parent)


@triton.jit
def _residual(target, draft, rest, row, i, vocab, owed, kind, token, scale):
    """max(0, owed p - q), float64, of a rejected child's token law q."""
    p = tl.load(target + row + i, mask=i < vocab, other=0.0).to(tl.float64)
    q = tl.where(i == token, 1.0, 0.0).to(tl.float64)
    if kind == 1:
        q = tl.load(rest + row + i, mask=i < vocab, other=0.0).to(tl.float64) * scale
    if kind == 2:
        q = tl.load(draft + row + i, mask=i < vocab, other=0.0).to(tl.float64)
    return tl.maximum(owed * p - q, 0.0)
