"""The calls of kernels that the engine makes, on tensors without storage: name -> call.

Head sizes and groups: 128 and 32/8 is Llama-3.1-8B, 64 and 9/3 SmolLM2-135M, 256 and 16/8 Gemma-2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.kernels.cache.quantize_kv import QuantizedKV, quantize_kv
from specdec.kernels.cache.stage_kv import commit_path, stage_kv
from specdec.kernels.sampling.choose_tokens import choose_tokens
from specdec.kernels.sampling.verify_trees import traverse_trees, walk_trees
from specdec.kernels.sampling.warp_scores import warp_scores
from specdec.kernels.selection.chunk_scores import score_means, update_means
from specdec.kernels.selection.label_scores import score_labels, update_labels
from specdec.kernels.selection.page_bounds import score_bounds, update_bounds
from specdec.kernels.selection.page_mass import page_mass
from specdec.kernels.selection.topk_pages import topk_pages

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NAMES = {BF16: "bf16", FP16: "fp16", FP32: "fp32"}
CAPACITY, PAGE = 32768, 16
LLAMA, SMOL, GEMMA = (128, 32, 8), (64, 9, 3), (256, 16, 8)


def empty(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return empty(*shape, dtype=dtype)


def inputs(dtype, dim, heads, kv_heads, nodes, batch=1, rows=1, keys=CAPACITY):
    q = empty(batch, heads, nodes, dim, dtype=dtype)
    k, v = (empty(rows, kv_heads, keys, dim, dtype=dtype) for _ in range(2))
    return q, k, v, ints(rows), ints(batch)


def prefix(*shape, softcap=None, window=False, biased=False):
    q, k, v, length, row_map = inputs(*shape)
    first = ints(q.shape[0], q.shape[2], dtype=torch.int64) if window else None
    bias = torch.empty(*k.shape[:3], device=k.device) if biased else None
    prefix_attention.triton(
        q, k, v, length, row_map, scale=0.1, softcap=softcap, first=first, bias=bias
    )


def tree(dtype, dim, heads, kv_heads, nodes, softcap=None, window=None):
    q, k, v, _, _ = inputs(dtype, dim, heads, kv_heads, nodes, keys=nodes)
    anc = ints(1, nodes, -(-nodes // 64), dtype=torch.int64)
    positions = ints(1, nodes, dtype=torch.int64)
    tree_attention.triton(
        q, k, v, anc, scale=0.1, softcap=softcap, window=window,
        q_positions=positions, k_positions=positions,
    )  # fmt: skip


def gather(*shape):
    q, k, v, length, row_map = inputs(*shape)
    pages = ints(q.shape[0], k.shape[1], 256)
    gather_attention.triton(q, k, v, pages, length, row_map, page_size=PAGE, scale=0.1)


def merging(parts, dim):
    partials = [(empty(1, 32, 16, dim), empty(1, 32, 16)) for _ in range(parts)]
    merge.triton(partials)


def bounds(*shape):
    q, k, _, length, row_map = inputs(*shape)
    index = empty(*k.shape[:2], CAPACITY // PAGE, 2, k.shape[3], dtype=k.dtype)
    update_bounds.triton(index, k, length, length, page_size=PAGE, pages=8)
    score_bounds.triton(q, index, length, row_map, page_size=PAGE)


def means(*shape):
    q, k, _, length, row_map = inputs(*shape)
    index = empty(*k.shape[:2], CAPACITY // 8, k.shape[3], dtype=k.dtype)
    update_means.triton(index, k, length, length, page_size=8, pages=8)
    score_means.triton(q, index, length, row_map, page_size=8)


def labels(*shape):
    q, k, _, length, row_map = inputs(*shape)
    index, channels = empty(*k.shape[:3], 16, dtype=k.dtype), ints(*k.shape[:2], 16)
    update_labels.triton(index, k, channels, length, length, tokens=64)
    score_labels.triton(q, index, channels, length, row_map)


def labels4(*shape):
    q, k, _, length, row_map = inputs(*shape)
    index, scales = ints(*k.shape[:3], 8, dtype=torch.uint8), empty(*k.shape[:3], 2, dtype=k.dtype)
    channels = ints(*k.shape[:2], 16)
    update_labels.triton(index, k, channels, length, length, tokens=64, scales=scales)
    score_labels.triton(q, index, channels, length, row_map, scales)


def mass(*shape, page_size=PAGE, votes="max"):
    q, k, _, length, row_map = inputs(*shape)
    lse = empty(*q.shape[:3])
    page_mass.triton(q, k, lse, length, row_map, page_size=page_size, scale=0.1, votes=votes)


def staging(*shape):
    q, k, v, length, rows = inputs(*shape)
    new = empty(q.shape[0], k.shape[1], q.shape[2], k.shape[3], dtype=k.dtype)
    stage_kv.triton(k, v, new, new, length, rows, at=0)
    commit_path.triton(k, v, ints(q.shape[0], q.shape[2]), length, rows)


def topk(pages, page_size, kv_heads):
    scores = empty(1, kv_heads, pages)
    topk_pages.triton(scores, ints(1), ints(1), page_size=page_size, budget=512, sink=16, recent=64)


def quantized(dtype, dim, heads, kv_heads, nodes, bits, group):
    q, k, v, length, row_map = inputs(dtype, dim, heads, kv_heads, nodes)
    kv = QuantizedKV.empty(k, v, bits, group)
    quantize_kv.triton(k, v, kv, length, length, groups=2)
    quantized_attention.triton(q, kv, length, row_map, scale=0.1)


def sampling(vocab, nodes, noisy):
    logits, floats = empty(nodes, vocab, dtype=BF16), [empty(nodes) for _ in range(3)]
    scores = warp_scores.triton(logits, floats[0], ints(nodes), *floats[1:])
    seeds, counters = (ints(*s, dtype=torch.int64) for s in ((nodes,), (nodes, 3)))
    choices = choose_tokens.triton(scores, *((seeds, counters) if noisy else ()))
    walk_trees.triton(choices[None], ints(1, nodes, dtype=torch.int64), ints(1, nodes))


def traversing(vocab, nodes):
    probs = empty(1, nodes, vocab)
    tokens, tests = ints(1, nodes, dtype=torch.int64), empty(1, nodes, dtype=torch.float64)
    traverse_trees.triton(probs, probs, tokens, ints(1, nodes), ints(1, nodes), tests)


VARIANTS: dict[str, Callable[[], object]] = {}


def add(op, call, dtype, sizes, nodes, note="", *args, **kwargs):
    name = f"{op} {NAMES[dtype]} d{sizes[0]} {sizes[1]}/{sizes[2]} n{nodes}{note}"
    VARIANTS[name] = partial(call, dtype, *sizes, nodes, *args, **kwargs)


for _dtype, _sizes, _nodes in [
    (BF16, LLAMA, (1, 8, 16, 64)), (FP16, LLAMA, (16,)), (BF16, SMOL, (1, 16, 64)),
    (BF16, GEMMA, (1, 64)), (FP32, LLAMA, (16,)), (FP32, SMOL, (1, 16)), 
]:  # fmt: skip
    for _n in _nodes:
        add("prefix", prefix, _dtype, _sizes, _n)
add("prefix", prefix, BF16, GEMMA, 16, " softcap window", softcap=50.0, window=True)
add("prefix", prefix, BF16, LLAMA, 1, " 32 texts on 4 rows", 32, 4)
add("prefix", prefix, BF16, LLAMA, 16, " bias", biased=True)
for _dtype, _sizes, _nodes in [
    (BF16, LLAMA, (16, 64)), (BF16, SMOL, (16,)), (FP32, SMOL, (16,)),
]:  # fmt: skip
    for _n in _nodes:
        add("tree", tree, _dtype, _sizes, _n)
add("tree", tree, BF16, GEMMA, 16, " softcap window", softcap=50.0, window=4096)
for _sizes in (LLAMA, SMOL):
    for _n in (1, 16):
        add("gather", gather, BF16, _sizes, _n)
for _op, _call in [
    ("bounds", bounds), ("means", means), ("labels", labels),
    ("labels in 4 bits", labels4), ("mass", mass), ("staging", staging),
]:  # fmt: skip
    add(_op, _call, BF16, LLAMA, 16)
for _dtype, _sizes, _n in [(BF16, LLAMA, 1), (BF16, SMOL, 1), (BF16, GEMMA, 8), (FP32, SMOL, 1)]:
    for _votes in ("max", "mean"):
        _note = f" tokens by their {_votes}"
        add("mass", mass, _dtype, _sizes, _n, _note, page_size=1, votes=_votes)
add("bounds", bounds, FP32, SMOL, 16)
for _sizes, _nodes, _bits, _group in [
    (LLAMA, 1, 8, 64), (LLAMA, 16, 8, 64), (LLAMA, 1, 4, 32), (LLAMA, 16, 4, 64),
    (LLAMA, 64, 4, 128), (SMOL, 1, 8, 64), (SMOL, 16, 4, 64),
]:  # fmt: skip
    add("quantized", quantized, BF16, _sizes, _nodes, f" int{_bits} g{_group}", _bits, _group)
VARIANTS["topk of 2048 pages"] = partial(topk, CAPACITY // PAGE, PAGE, 8)
VARIANTS["topk of 32768 tokens"] = partial(topk, CAPACITY, 1, 8)
for _vocab, _n in ((128256, 16), (49152, 64)):
    VARIANTS[f"greedy walk, {_n} of {_vocab}"] = partial(sampling, _vocab, _n, False)
    VARIANTS[f"coupled walk, {_n} of {_vocab}"] = partial(sampling, _vocab, _n, True)
    VARIANTS[f"traversal, {_n} of {_vocab}"] = partial(traversing, _vocab, _n)
VARIANTS["merge of 2, d128"] = partial(merging, 2, 128)
VARIANTS["merge of 4, d64"] = partial(merging, 4, 64)
