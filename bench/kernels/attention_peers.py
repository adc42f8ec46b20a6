"""One layer's verification by us and by others: N tree nodes over a long context and each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.level_attention import Reads, level_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.kernels.attention.tree_attention import tree_attention, unpack
from specdec.kernels.cache.quantize_kv import QuantizedKV, quantize_kv
from specdec.sampling.tree import ancestor_words

BUDGET, PAGE, GROUP = 4096, 16, 64  # of the sparse and quantised reads that are timed besides
SHAPES = {"llama-3.1-8b": (32, 8, 128), "smollm2-135m": (9, 3, 64)}


@dataclass(frozen=True)
class Contestant:
    """Something to time: `run()` does one layer's attention, which has to read `bytes`."""

    name: str
    run: Callable[[], object]
    bytes: int


class Layer:
    """One layer's tensors: `context` committed tokens and a binary tree of `nodes` behind them."""

    def __init__(
        self, shape: str, context: int, nodes: int, device: str, dtype: torch.dtype
    ) -> None:
        heads, kv_heads, dim = SHAPES[shape]
        self.context, self.nodes, self.device, self.scale = context, nodes, device, dim**-0.5
        generator = torch.Generator(device).manual_seed(0)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator, device=device, dtype=dtype)

        self.q = normal(1, heads, nodes, dim)
        self.k, self.v = (normal(1, kv_heads, context + nodes, dim) for _ in range(2))
        self.anc = ancestor_words([_binary(nodes)], nodes).to(device)
        self.length = torch.tensor([context], dtype=torch.int32, device=device)
        self.row_map = torch.zeros(1, dtype=torch.int32, device=device)

    @property
    def kv_bytes(self) -> int:
        """Keys and values, queries, and an output of the same size."""
        return self.k.nbytes + self.v.nbytes + 2 * self.q.nbytes

    def ours(self, kind: str) -> Iterator[Contestant]:
        """Verification, and the reads of sparse and quantised views, by one version of our ops."""
        if kind != "triton":
            op = getattr(level_attention, kind)
            reads = level_reads(self.context, self.nodes)
            yield Contestant(
                f"level_attention ({kind})",
                lambda: op(self.q, [(self.k, self.v)], reads, scale=self.scale),
                self.kv_bytes,
            )
            return
        yield Contestant("prefix_attention", lambda: self._prefix(kind), self.kv_bytes)
        yield Contestant("verification", lambda: self._verification(kind), self.kv_bytes)
        if self.context >= BUDGET:
            count = BUDGET // PAGE
            pages = torch.arange(0, self.context // PAGE, self.context // PAGE // count)[:count]
            pages = pages.expand(1, self.k.shape[1], -1).to(self.device, torch.int32)
            yield Contestant(
                f"gather_attention, {BUDGET} tokens",
                lambda: getattr(gather_attention, kind)(
                    self.q, self.k, self.v, pages, self.length, self.row_map,
                    page_size=PAGE, scale=self.scale,
                ),
                self.kv_bytes * BUDGET // self.k.shape[2],
            )  # fmt: skip
        for bits in (8, 4):
            kv = QuantizedKV.empty(self.k, self.v, bits, GROUP)
            zero, full = torch.zeros_like(self.length), self.length // GROUP * GROUP
            make = getattr(quantize_kv, kind)
            make(self.k, self.v, kv, zero, full, groups=kv.k_scales.shape[2])
            yield Contestant(
                f"quantized_attention, int{bits}",
                lambda kv=kv, full=full: getattr(quantized_attention, kind)(  # type: ignore[misc]
                    self.q, kv, full, self.row_map, scale=self.scale
                ),
                kv.nbytes,
            )

    def peers(self) -> Iterator[Contestant]:
        """Others' attention over the same keys; those that are not installed are left out."""
        mask = torch.ones(1, 1, self.nodes, self.k.shape[2], dtype=torch.bool, device=self.device)
        mask[0, 0, :, self.context :] = unpack(self.anc, self.nodes)[0]

        def sdpa() -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(
                self.q, self.k, self.v, attn_mask=mask, scale=self.scale, enable_gqa=True
            )

        yield Contestant("scaled_dot_product_attention with mask", sdpa, self.kv_bytes)
        if self.device == "cpu":
            return
        yield Contestant("FlexAttention, compiled", self._flex(mask[0, 0]), self.kv_bytes)
        if importlib.util.find_spec("flashinfer") is not None:
            yield Contestant("flashinfer, prefix alone", self._flashinfer(), self.kv_bytes)

    def _prefix(self, kind: str) -> Any:
        return getattr(prefix_attention, kind)(
            self.q, self.k, self.v, self.length, self.row_map, scale=self.scale
        )

    def _verification(self, kind: str) -> Any:
        k, v = self.k[:, :, self.context :], self.v[:, :, self.context :]
        tree = getattr(tree_attention, kind)(self.q, k, v, self.anc, scale=self.scale)
        return getattr(merge, kind)([self._prefix(kind), tree])

    def _flex(self, visible: Tensor) -> Callable[[], object]:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        nodes, keys = visible.shape
        mask = create_block_mask(
            lambda b, h, i, j: visible[i, j], None, None, nodes, keys, device=self.device
        )
        compiled = torch.compile(flex_attention)
        return lambda: compiled(
            self.q, self.k, self.v, block_mask=mask, scale=self.scale, enable_gqa=True
        )

    def _flashinfer(self) -> Callable[[], object]:
        import flashinfer  # type: ignore[import-not-found,unused-ignore]

        q, k, v = self.q[0].transpose(0, 1).contiguous(), self.k[0], self.v[0]
        return lambda: flashinfer.single_prefill_with_kv_cache(
            q, k, v, causal=False, kv_layout="HND", sm_scale=self.scale
        )


def shared_prefix(
    shape: str, context: int, rows: int, device: str, dtype: torch.dtype, kind: str
) -> tuple[Contestant, Contestant]:
    """`rows` sequences on one prefix: packed beside each other, and each row by itself."""
    layer = Layer(shape, context, 1, device, dtype)
    q = layer.q.expand(rows, -1, -1, -1).contiguous()
    op = getattr(prefix_attention, kind)
    one = torch.zeros(rows, dtype=torch.int32, device=device)
    each = torch.arange(rows, dtype=torch.int32, device=device)
    # Rows of one memory: caches help the reader of each row, which is fair to it.
    k, v = (x.expand(rows, -1, -1, -1) for x in (layer.k, layer.v))
    lengths = layer.length.expand(rows).contiguous()
    return (
        Contestant(
            "shared", lambda: op(q, layer.k, layer.v, layer.length, one, scale=layer.scale),
            layer.kv_bytes,
        ),
        Contestant(
            "each row", lambda: op(q, k, v, lengths, each, scale=layer.scale), layer.kv_bytes
        ),
    )  # fmt: skip


def level_reads(context: int, nodes: int) -> Reads:
    """One sequence that reads all of one level, and a binary tree of nodes behind it."""
    words = ancestor_words([_binary(nodes)], nodes).numpy().view(np.uint64)
    table = np.array([[0, 0, 0, context, nodes, 0, 1, 0]], np.int64)
    return Reads(table, np.zeros(1, np.int64), words)


def _binary(nodes: int) -> list[int]:
    return [-1, *((i - 1) // 2 for i in range(1, nodes))]
