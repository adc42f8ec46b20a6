"""A call of every op, on the same numbers for each of its versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from specdec.bench.kernels.attention_peers import level_reads
from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.level_attention import level_attention
from specdec.kernels.attention.members import members
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.kernels.cache.quantize_kv import QuantizedKV, quantize_kv
from specdec.kernels.cache.stage_kv import commit_path, stage_kv
from specdec.kernels.dispatch import Op
from specdec.kernels.sampling.choose_tokens import choose_tokens
from specdec.kernels.sampling.verify_trees import traverse_trees, walk_trees
from specdec.kernels.sampling.warp_scores import warp_scores
from specdec.kernels.selection.chunk_scores import score_means, update_means
from specdec.kernels.selection.label_scores import score_labels, update_labels
from specdec.kernels.selection.page_bounds import score_bounds, update_bounds
from specdec.kernels.selection.page_mass import page_mass
from specdec.kernels.selection.select_pages import select_pages
from specdec.kernels.selection.topk_pages import topk_pages
from specdec.sampling.tree import ancestor_words

B, R, KV, G, N, C, D, PAGE, V = 3, 2, 3, 3, 5, 320, 64, 16, 1000


class Inputs:
    """The same numbers for every version of an op: of `dtype`, or widened to float64."""

    def __init__(self, device: str, dtype: torch.dtype, wide: bool) -> None:
        self.device, self.dtype, self.wide = device, dtype, wide
        self.generator = torch.Generator().manual_seed(0)
        self.coarsest = torch.float32  # of what was asked for

    def normal(self, *shape: int) -> Tensor:
        self.coarsest = self.dtype
        x = torch.randn(shape, generator=self.generator).to(self.dtype)
        return x.to(self.device, torch.float64 if self.wide else self.dtype)

    def single(self, *shape: int) -> Tensor:
        """In float32, as scores and laws are."""
        x = torch.randn(shape, generator=self.generator)
        return x.to(self.device, torch.float64 if self.wide else torch.float32)

    def ints(self, values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def level(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v, length and row_map, of SmolLM2's shape."""
        q = self.normal(B, KV * G, N, D)
        k, v = self.normal(R, KV, C, D), self.normal(R, KV, C, D)
        return q, k, v, self.ints([C - 3, 65]), self.ints([0, 1, 0])


Run: TypeAlias = Callable[[Op[Any, Any]], Callable[..., Any]]
Case: TypeAlias = Callable[[Inputs, Run], Any]


def _prefix(x: Inputs, run: Run) -> Any:
    return run(prefix_attention)(*x.level(), scale=0.125)


def _tree(x: Inputs, run: Run) -> Any:
    q, k, v, _, _ = x.level()
    anc = ancestor_words([[-1, 0, 0, 1, 2]], N).expand(B, -1, -1).contiguous().to(x.device)
    return run(tree_attention)(q, k[:1, :, :N].repeat(B, 1, 1, 1), v[:1, :, :N].repeat(B, 1, 1, 1),
                               anc, scale=0.125)  # fmt: skip


def _merge(x: Inputs, run: Run) -> Any:
    return run(merge)([(x.single(B, 9, N, D), x.single(B, 9, N)) for _ in range(3)])


def _gather(x: Inputs, run: Run) -> Any:
    pages = x.ints([[[0, 3, 7, -1]] * KV] * B)
    q, k, v, length, row_map = x.level()
    return run(gather_attention)(q, k, v, pages, length, row_map, page_size=PAGE, scale=0.125)


def _pages(x: Inputs, run: Run) -> Any:
    q, k, _, length, row_map = x.level()
    bounds, means = k.new_zeros(R, KV, C // PAGE, 2, D), k.new_zeros(R, KV, C // PAGE, D)
    steps = dict(page_size=PAGE, pages=C // PAGE)
    run(update_bounds)(bounds, k, torch.zeros_like(length), length, **steps)
    run(update_means)(means, k, torch.zeros_like(length), length, **steps)
    high = run(score_bounds)(q, bounds, length, row_map, page_size=PAGE)
    return high, run(score_means)(q, means, length, row_map, page_size=PAGE)


def _labels(x: Inputs, run: Run, bits: int = 16) -> Any:
    q, k, _, length, row_map = x.level()
    channels = x.ints([[list(range(h + r, h + r + 16)) for h in range(KV)] for r in range(R)])
    labels, scales = k.new_zeros(R, KV, C, 16), None
    if bits == 4:
        scales = k.new_zeros(R, KV, C, 2)
        labels = torch.zeros(R, KV, C, 8, dtype=torch.uint8, device=x.device)
    zero = torch.zeros_like(length)
    run(update_labels)(labels, k, channels, zero, length, tokens=C, scales=scales)
    return run(score_labels)(q, labels, channels, length, row_map, scales)


def _four_bit_labels(x: Inputs, run: Run) -> Any:
    return _labels(x, run, 4)


def _mass(x: Inputs, run: Run) -> Any:
    q, k, v, length, row_map = x.level()
    _, lse = prefix_attention.plain(q, k, v, length, row_map, scale=0.125)
    return run(page_mass)(q, k, lse, length, row_map, page_size=PAGE, scale=0.125)


def _topk(x: Inputs, run: Run) -> Any:
    scores, pages = x.single(B, KV, 300), x.ints([300, 17, 0])
    sizes = dict(page_size=PAGE, budget=40 * PAGE, sink=PAGE, recent=PAGE)
    return run(topk_pages)(scores, pages, x.ints([3, 0, 9]), **sizes)[..., 2:]  # forced: any order


def _quantized(x: Inputs, run: Run, bits: int = 8) -> Any:
    q, k, v, length, row_map = x.level()
    kv = QuantizedKV.empty(k, v, bits, 32)
    zero, full = torch.zeros_like(length), length // 32 * 32
    # From codes of one maker: two may round a tie apart, which the tests allow for.
    quantize_kv.plain(k.to(x.dtype), v.to(x.dtype), kv, zero, full, groups=C // 32)
    return run(quantized_attention)(q, kv, full, row_map, scale=0.125)


def _four_bits(x: Inputs, run: Run) -> Any:
    return _quantized(x, run, 4)


def _staging(x: Inputs, run: Run) -> Any:
    _, k, v, length, _ = x.level()
    new, rows = x.normal(R, KV, 3, D), x.ints([1, 0])
    run(stage_kv)(k, v, new, new, length, rows, at=0)
    run(commit_path)(k, v, x.ints([[0, 2], [1, -1]]), length, rows)
    return k, v


def _members(x: Inputs, run: Run) -> Any:
    return run(members)(x.ints([0, 2, 1, 0, 0, 2]), rows=3, per_tile=2)


def _sampling(x: Inputs, run: Run) -> Any:
    settings = x.single(4, 1)[:, 0].abs().float() + 0.5, x.ints([0, 50, 0, 0])
    cuts = (torch.tensor(p, device=x.device) for p in ([1.0, 1.0, 0.9, 1.0], [0.0, 0.0, 0.0, 0.1]))
    scores = run(warp_scores)(x.single(4, V), *settings, *cuts)
    seeds, places = (x.ints(n, torch.int64) for n in ([5, 6, 7, 8], [[9, 0, 0]] * 4))
    return run(choose_tokens)(scores, seeds, places), run(choose_tokens)(scores), scores.exp()


def _verifying(x: Inputs, run: Run) -> Any:
    target, draft = (x.single(2, N, V).softmax(-1) for _ in range(2))
    tokens, parents = x.ints([[0, 5, 6, 7, 8]] * 2, torch.int64), x.ints([[-1, 0, 0, 1, 1]] * 2)
    laws, tests = x.ints([[0, 1, 1, 2, 0]] * 2), torch.linspace(0.1, 0.9, 10).double()
    walk = run(walk_trees)(x.ints([[5, 8, 1, 1, 1]] * 2, torch.int64), tokens, parents)
    paths, used = run(traverse_trees)(
        target, draft, tokens, parents, laws, tests.view(2, 5).to(x.device)
    )
    return walk, paths, used, target


def _level(x: Inputs, run: Run) -> Any:
    q, k, v, _, _ = x.level()
    return run(level_attention)(q[:1], [(k, v)], level_reads(C - N, N), scale=0.125)


def _select(x: Inputs, run: Run) -> Any:
    how = dict(votes="max", pool=3, per_page=2, all_heads=False, count=9, first=1, last=1)
    return run(select_pages)(x.normal(KV, 6, 60), **how)[:, 2:]  # forced: any order


CASES: dict[str, dict[str, Case]] = {
    "triton": {
        "prefix_attention": _prefix, "tree_attention": _tree, "merge": _merge,
        "gather_attention": _gather, "page_bounds, chunk_scores": _pages,
        "label_scores": _labels, "label_scores, 4 bits": _four_bit_labels, "page_mass": _mass,
        "topk_pages": _topk, "quantized_attention, 8 bits": _quantized,
        "quantized_attention, 4 bits": _four_bits, "stage_kv, commit_path": _staging,
        "members": _members, "warp_scores, choose_tokens": _sampling, "verify_trees": _verifying,
    },
    "numba": {
        "level_attention": _level, "prefix_attention": _prefix, "tree_attention": _tree,
        "gather_attention": _gather, "merge": _merge, "page_mass": _mass,
        "select_pages": _select, "stage_kv, commit_path": _staging,
    },
}  # fmt: skip
