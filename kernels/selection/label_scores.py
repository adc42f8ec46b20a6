"""label_scores: scores of single keys from a few of their channels (Double Sparsity).

The label cache holds the chosen channels of every key side by side, so a score reads L of D
channels and nothing else: in the type of the keys, or in 4 bits with a step and a lowest value for
each key, as the paper's own (arXiv 2408.07092). Channels are chosen once for each row, per kv head,
on cached keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.cache import codes
from specdec.kernels.dispatch import dispatched
from specdec.kernels.selection.page_bounds import best, group_queries, new_units


@dispatched
def update_labels(
    labels: Tensor,
    k: Tensor,
    channels: Tensor,
    since: Tensor,
    length: Tensor,
    *,
    tokens: int,
    scales: Tensor | None = None,
) -> None:
    """Write, in place, the chosen channels of the keys between `since` and `length: int32[R]`.

    k: `[R, Hkv, C, D]`; channels: `int32[R, Hkv, L]`, L even. labels: `[R, Hkv, C, L]` in the type
    of the keys; or, with `scales: [R, Hkv, C, 2]` (step and lowest value), 4-bit codes packed by
    `codes.pack`, `uint8[R, Hkv, C, L / 2]`. At most `tokens` keys of a row are written: C to build
    all labels, else as many as one pass can add.
    """
    head = torch.arange(k.shape[1], device=k.device)[:, None, None]
    for row, (a, b) in enumerate(new_units(since, length, 1, tokens)):
        slot = torch.arange(a, b, device=k.device)[:, None]
        chosen = k[row][head, slot, channels[row, :, None].long()]
        if scales is None:
            labels[row, :, a:b] = chosen
        elif b > a:
            coded, step, low = codes.encode(chosen, 4, dim=-1)
            labels[row, :, a:b] = codes.pack(coded, 4)
            scales[row, :, a:b] = torch.cat([step, low], dim=-1)


@dispatched
def score_labels(
    q: Tensor,
    labels: Tensor,
    channels: Tensor,
    length: Tensor,
    row_map: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """The part of each key's score that its labels hold: float32 `[B, Hkv, C]`.

    q: `[B, H, N, D]`; sequence b reads row `row_map[b]` of labels, channels and scales as
    `update_labels` wrote them. Max over nodes and group heads; not scaled; -inf behind the row's
    length.
    """
    grouped = group_queries(q, labels.shape[1])
    index = channels[row_map.long(), :, None].long().expand(*grouped.shape[:3], -1)
    held = labels[row_map.long()]
    if scales is not None:
        step, low = scales[row_map.long()].float().split(1, dim=-1)
        held = codes.unpack(held, 4).float() * step + low
    scores = grouped.gather(-1, index) @ held.float().mT
    return best(scores, length, row_map, 1)
