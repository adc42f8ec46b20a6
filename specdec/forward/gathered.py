"""Selected pages out of slower memory, or on a device: gathered once, and read together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.host_reads import biases, levels_of, note, table_of, with_entries
from specdec.forward.layout import Segments
from specdec.forward.plan import LayerPlan, Selection
from specdec.kernels.attention.gather_pages import gather_pages
from specdec.kernels.attention.level_attention import NO_BOUNDS, Reads, level_attention

_FIRST = np.zeros(1, np.int64)

Pair = tuple[Tensor, Tensor]  # k, v of a level


def attend_near(pass_: ForwardPass, call: AttentionCall, plan: LayerPlan, b: int) -> Tensor:
    """Attention `[1, H, N, Dv]` of sequence b over what it reads.

    Selected pages are kept for as long as the selection stands; what has come since is read where
    it lies, or brought near.
    """
    assert plan.rows is not None
    row, segments = plan.rows[b], pass_.segments(call.layer)[b]
    note(row, segments)
    levels = with_entries(levels_of(pass_, call.layer), [row])
    table = table_of(pass_, row, segments)
    if row.selection is not None:
        table = [read for read in table if read[7] <= 0]
        pair = _kept(pass_, call.layer, levels, segments, row.selection)
        table.append([len(levels), 0, 0, row.count * row.selection.page_size, 0, 0, 1, 0])
        levels = [*levels, pair]
    levels, reads = _near(levels, np.array(table, np.int64), call.q.device)
    reads[:, 5] = 0
    return level_attention(
        call.q if len(call.q) == 1 else call.q[b : b + 1],
        levels,
        Reads(reads, _FIRST, pass_.anc_words[b : b + 1], NO_BOUNDS, biases=biases([row])),
        scale=call.scale,
        softcap=call.softcap,
        sinks=call.sinks,
    )


def _kept(
    pass_: ForwardPass, layer: int, levels: list[Pair], segments: Segments, selection: Selection
) -> Pair:
    """The selected pages, gathered when they are first read."""
    key = segments.sequence, layer
    known = pass_.state.gathered.get(key)
    if known is None or known[0] is not selection:
        k, v = (_gathered([pair[part] for pair in levels], segments, selection) for part in (0, 1))
        known = pass_.state.gathered[key] = (selection, k[None], v[None])
    return known[1], known[2]


def _gathered(buffers: list[Any], segments: Segments, selection: Selection) -> Tensor:
    """The selected pages, best first, out of one buffer a level: `[Hkv, n, D]`."""
    assert selection.pages is not None
    size, offset, out = selection.page_size, 0, None
    for at, covered in selection.levels:
        count = covered // size
        local = (selection.pages - offset).clamp(0, count - 1)
        buffer = buffers[at][segments.rows[at]]
        part = gather_pages(buffer, local.to(buffer.device), size).to(local.device)
        if out is None:
            out = part
        else:
            mine = (selection.pages >= offset).repeat_interleave(size, dim=1)
            out = torch.where(mine.unsqueeze(-1), part, out)
        offset += count
    assert out is not None
    return out


def _near(
    levels: list[Pair], table: NDArray[np.int64], device: torch.device
) -> tuple[list[Pair], NDArray[np.int64]]:
    """The same reads with spans that lie in other memory brought to the device."""
    levels = list(levels)
    for read in table:
        at, row, start, end = read[:4].tolist()
        if levels[at][0].device != device:
            k, v = (x[row : row + 1, :, start:end].to(device) for x in levels[at])
            read[:4] = len(levels), 0, 0, end - start
            levels.append((k, v))
    return levels, table
