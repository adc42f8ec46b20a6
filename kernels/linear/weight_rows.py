"""weight_rows: some rows of a weight in panels, as numbers: what an embedding looks up."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.packed_weight import PanelWeight


@dispatched
def weight_rows(out: Tensor, weight: PanelWeight, rows: Tensor) -> Tensor:
    """Fill `out[n, inputs]`, float32, with the rows `int64[n]` of a weight, bit for bit those of
    `PanelWeight.dense`, and return it. All rows are from 0 to `weight.outputs - 1`."""
    return out.copy_(weight.dense_rows(rows.numpy()))
