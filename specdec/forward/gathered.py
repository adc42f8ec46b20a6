"""Attention of one sequence over pages that are brought near: from slower memory, or in parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.host_reads import biases, levels_of, note, table_of, with_entries
from specdec.forward.near_pages import near_pages
from specdec.forward.plan import LayerPlan
from specdec.kernels.attention.level_attention import NO_BOUNDS, NO_PAGES, Reads, level_attention

_FIRST = np.zeros(1, np.int64)

Pair = tuple[Tensor, Tensor]  # k, v of a level


def attend_near(pass_: ForwardPass, call: AttentionCall, plan: LayerPlan, b: int) -> Tensor:
    """Attention `[1, H, N, Dv]` of sequence b over what it reads.

    Selected pages are brought near and kept while they are selected; what has come since is read
    where it lies, or brought near.
    """
    assert plan.rows is not None
    row, segments, device = plan.rows[b], pass_.segments(call.layer)[b], call.q.device
    note(row, segments, call.layer)
    levels = with_entries(levels_of(pass_, call.layer), [row])
    table, pages, size = np.array(table_of(pass_, row, segments), np.int64), NO_PAGES, 1
    if row.selection is not None:
        size = row.selection.page_size
        pages = row.selection.local[:, :, : row.count].copy()
        for i, (at, _) in enumerate(row.selection.levels):
            level = pass_.store.levels[at]
            if level.is_remote(call.layer, device) or row.keys is not None:
                pool, slots = near_pages(level, call.layer, segments, row.selection, i, device)
                if pool.k is None or pool.v is None:  # nothing is selected here
                    table = table[table[:, 7] != i + 1]
                    continue
                table[table[:, 7] == i + 1, :4] = len(levels), 0, 0, pool.k.shape[1] * size
                pages[i] = slots[:, : row.count]
                levels = [*levels, (pool.k.flatten(1, 2)[None], pool.v.flatten(1, 2)[None])]
    levels = _near(pass_, call, levels, table)
    table[:, 5] = 0
    return level_attention(
        call.q if len(call.q) == 1 else call.q[b : b + 1],
        levels,
        Reads(table, _FIRST, pass_.anc_words[b : b + 1], NO_BOUNDS, pages, size, biases([row])),
        scale=call.scale,
        softcap=call.softcap,
        sinks=call.sinks,
    )


def _near(
    pass_: ForwardPass, call: AttentionCall, levels: list[Pair], table: NDArray[np.int64]
) -> list[Pair]:
    """The levels, and behind them the spans that lie elsewhere, to which reads point from now on,
    in place."""
    levels, device = list(levels), call.q.device
    for read in table:
        at, row, start, end = read[:4].tolist()
        held = pass_.store.levels[at] if at < len(pass_.store.levels) else None
        if held is not None and held.is_remote(call.layer, device):
            k, v = (held.bring(x, call.layer, row, start, end, device)[None] for x in levels[at])
        elif levels[at][0].device != device:
            k, v = (x[row : row + 1, :, start:end].to(device) for x in levels[at])
        else:
            continue
        read[:4] = len(levels), 0, 0, end - start
        levels.append((k, v))
    return levels
