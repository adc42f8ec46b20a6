"""label_scores: scores of single keys from a few of their channels (Double Sparsity).

The label cache holds the chosen channels of every key side by side, in the type of the keys, so a
score reads C of D channels and nothing else. Channels are chosen once, per kv head, on cached keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.page_bounds import best, group_queries, new_units


@dispatched
def update_labels(
    labels: Tensor, k: Tensor, channels: Tensor, since: Tensor, length: Tensor, *, tokens: int
) -> None:
    """Copy, in place, the chosen channels of the keys between `since` and `length: int32[R]`.

    labels: `[R, Hkv, C, L]`; k: `[R, Hkv, C, D]`; channels: `int32[Hkv, L]`. At most `tokens` keys
    of a row are copied: C to build all labels, else as many as one pass can add.
    """
    head = torch.arange(k.shape[1], device=k.device)[:, None, None]
    for row, (a, b) in enumerate(new_units(since, length, 1, tokens)):
        slot = torch.arange(a, b, device=k.device)[:, None]
        labels[row, :, a:b] = k[row][head, slot, channels[:, None].long()]


@dispatched
def score_labels(
    q: Tensor, labels: Tensor, channels: Tensor, length: Tensor, row_map: Tensor
) -> Tensor:
    """The part of each key's score that its labels hold: float32 `[B, Hkv, C]`.

    q: `[B, H, N, D]`; sequence b reads row `row_map[b]` of `labels[R, Hkv, C, L]`; channels:
    `int32[Hkv, L]`. Max over nodes and group heads; not scaled; -inf behind the row's length.
    """
    grouped = group_queries(q, labels.shape[1])
    index = channels.long()[None, :, None].expand(*grouped.shape[:3], -1)
    scores = grouped.gather(-1, index) @ labels[row_map.long()].float().mT
    return best(scores, length, row_map, 1)
