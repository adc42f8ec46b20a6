"""members on a GPU, in one launch: every sequence finds its own tile and place by counting."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.attention.members import tile_count


def members(row_map: Tensor, *, rows: int, per_tile: int) -> Tensor:
    """See `specdec.kernels.attention.members`."""
    batch = row_map.shape[0]
    out = row_map.new_full((tile_count(batch, rows, per_tile), per_tile), -1, dtype=torch.int32)
    _members[(batch,)](
        row_map, out, batch, rows, per_tile, BLOCK_B=128, BLOCK_R=16, enable_fp_fusion=True
    )
    return out


@triton.jit
def _members(row_map, out, batch, rows, per_tile, BLOCK_B: tl.constexpr, BLOCK_R: tl.constexpr):
    b = tl.program_id(0)
    row = tl.load(row_map + b)
    rank = 0  # sequences before this one on the same row
    for start in range(0, batch, BLOCK_B):
        other = start + tl.arange(0, BLOCK_B)
        found = tl.load(row_map + other, mask=other < b, other=-1)
        rank += tl.sum((found == row).to(tl.int32), 0)
    base = 0  # tiles of the rows before this one's
    for first in range(0, row, BLOCK_R):
        earlier = first + tl.arange(0, BLOCK_R)
        count = tl.zeros([BLOCK_R], tl.int32)
        for start in range(0, batch, BLOCK_B):
            other = start + tl.arange(0, BLOCK_B)
            found = tl.load(row_map + other, mask=other < batch, other=-1)
            count += tl.sum((found[None, :] == earlier[:, None]).to(tl.int32), 1)
        tiles = (count + per_tile - 1) // per_tile
        base += tl.sum(tl.where(earlier < row, tiles, 0), 0)
    tl.store(out + (base + rank // per_tile) * per_tile + rank % per_tile, b)
