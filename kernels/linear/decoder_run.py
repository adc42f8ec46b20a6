"""decoder_run: decoder layers of one shape, one after another, over levels in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.level_attention import Reads, level_attention
from specdec.kernels.cache.stage_kv import stage_kv
from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.decoder_block import (
    AttentionInputs,
    LayerOutput,
    attention_inputs,
    layer_output,
)
from specdec.kernels.linear.packed_formats import Stored
from specdec.kernels.selection.select_pages import select_by_index

LANES = 16  # numbers of a vector: sizes of heads are multiples of it
Block = tuple[AttentionInputs, LayerOutput]


@dataclass(frozen=True, eq=False)
class Run:
    """Decoder layers that are `alike`, in order."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Staging:
    """Where a pass writes keys and values: staged slots from `at` on, behind `length: int32[R]` of
    rows `rows: int32[B]` of the last level."""

    length: Tensor
    rows: Tensor
    at: int


@dataclass(frozen=True, eq=False)
class PendingSelection:
    """Pages that a layer chooses by its own queries, for itself and others that read them.

    index: `[Hkv, P, W]`; signed, votes, pool, all_heads, first, last: see `select_by_index`, whose
    result is written to `pages: int64[1, Hkv, count]`, in place.
    """

    index: Tensor
    pages: NDArray[np.int64]
    signed: bool
    votes: str
    pool: int
    all_heads: bool
    first: int
    last: int

    @property
    def settings(self) -> tuple[bool, str, int, bool, int, int]:
        return self.signed, self.votes, self.pool, self.all_heads, self.first, self.last


def alike(a: Block, b: Block) -> bool:
    """Whether two layers differ in nothing but the numbers in their weights."""
    return bool(_shape(a) == _shape(b))


def _shape(x: Any) -> Any:
    """Types, sizes and settings of all parts; stored formats are all one."""
    if isinstance(x, Stored):
        return Stored
    if isinstance(x, Tensor | np.ndarray):
        return str(x.dtype), tuple(x.shape)
    if is_dataclass(x):
        return type(x), tuple(_shape(getattr(x, part.name)) for part in fields(x))
    return (type(x), tuple(map(_shape, x))) if isinstance(x, tuple) else x


@dispatched
def decoder_run(
    x: Tensor,
    run: Run,
    cos: Tensor,
    sin: Tensor,
    levels: Sequence[Sequence[tuple[Tensor, Tensor]]],
    staging: Staging,
    reads: Sequence[Reads],
    pending: Sequence[PendingSelection | None],
    *,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """The last layer's output `[B, N, hidden]` from the first one's input x; keys and values of
    all layers are staged in place.

    cos, sin: see `attention_inputs`. levels, reads: see `level_attention`, one for each layer;
    tables and all but the pages are those of the first. pending: what a layer, of a pass over one
    sequence, chooses before it attends; settings and sizes are those of the first that does.
    """
    for block, pairs, read, choice in zip(run.blocks, levels, reads, pending, strict=True):
        inputs, output = block
        q, k, v = attention_inputs.plain(x, inputs, cos, sin)
        stage_kv.plain(*pairs[-1], k, v, staging.length, staging.rows, at=staging.at)
        if choice is not None:
            asked = q.reshape(k.shape[1], -1, q.shape[-1])
            best = select_by_index.plain(
                asked, choice.index, scale=scale, signed=choice.signed, votes=choice.votes,
                pool=choice.pool, all_heads=choice.all_heads, count=choice.pages.shape[2],
                first=choice.first, last=choice.last,
            )  # fmt: skip
            choice.pages[0] = best.numpy()
        o = level_attention.plain(q, pairs, read, scale=scale, softcap=softcap)
        x = layer_output.plain(x, o, output)
    return x
