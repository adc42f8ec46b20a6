"""members: which sequences share a tile of queries, because they read the same row of KV."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def members(row_map: Tensor, *, rows: int, per_tile: int) -> Tensor:
    """Sequences grouped by row: `int32[tiles, per_tile]`, padded with -1 behind each tile's own.

    row_map: `int32[B]`, the row of each sequence, below `rows`. Tiles stand in the order of their
    rows and a tile's sequences in the order of the batch. There are as many tiles as the worst
    `row_map` of these sizes needs; those not needed hold only -1. Shapes depend on sizes alone.
    """
    batch = row_map.shape[0]
    order = torch.argsort(row_map, stable=True)
    by_row = row_map[order].contiguous()
    rank = torch.arange(batch, device=row_map.device) - torch.searchsorted(by_row, by_row)
    tile = (rank % per_tile == 0).cumsum(0) - 1
    out = row_map.new_full((tile_count(batch, rows, per_tile), per_tile), -1, dtype=torch.int32)
    out[tile, rank % per_tile] = order.to(torch.int32)
    return out


def tile_count(batch: int, rows: int, per_tile: int) -> int:
    """The most tiles that `batch` sequences on `rows` rows can need."""
    return (batch + min(rows, batch) * (per_tile - 1)) // per_tile
