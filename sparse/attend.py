"""Reading: attention of one sequence over what a choice leaves of its committed text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.forward.forward_pass import AttentionCall, ForwardPass
from specdec.forward.full_view import levels_of
from specdec.kernels.attention.gather_pages import gather_pages
from specdec.kernels.attention.level_attention import NO_BOUNDS, NO_PAGES, Reads, level_attention
from specdec.sparse.budget import Span, extent, whole
from specdec.sparse.choose import Choice
from specdec.sparse.sequence_places import Place

_ONE = np.zeros(1, np.int64)


def attend_spans(
    pass_: ForwardPass, call: AttentionCall, b: int, place: Place, spans: list[Span]
) -> Tensor:
    """Attention `[1, H, N, Dv]` of sequence b over runs of committed tokens, read where they lie,
    and over what is staged."""
    table = np.array(_table(pass_, place, spans), np.int64)
    return _attend(call, b, levels_of(pass_, call.layer), _reads(pass_, b, table))


def whole_reads(pass_: ForwardPass, b: int, place: Place) -> Reads:
    """What `attend_spans` of all that is committed reads, the same object for all layers."""
    key = (b, "whole")
    if key not in pass_.plans:
        table = np.array(_table(pass_, place, whole(place)), np.int64)
        pass_.plans[key] = _reads(pass_, b, table)
    known: Reads = pass_.plans[key]
    return known


def choice_reads(
    pass_: ForwardPass, b: int, place: Place, choice: Choice, budget: int, size: int
) -> Reads:
    """What `attend_choice` reads in host memory, noted as read."""
    count, table = _plan(pass_, b, place, choice, budget, size)
    pages = np.ascontiguousarray(choice.local[:, :, :count])
    return _reads(pass_, b, table, pages, size)


def attend_choice(
    pass_: ForwardPass,
    call: AttentionCall,
    b: int,
    place: Place,
    choice: Choice,
    budget: int,
    size: int,
) -> Tensor:
    """Attention `[1, H, N, Dv]` of sequence b over a choice, what came since, the draft's own level
    and what is staged.

    In host memory the chosen pages are read where they lie; elsewhere, and out of a slower tier,
    they are gathered once and kept for as long as the choice stands. What has come since is read
    where it lies.
    """
    levels = levels_of(pass_, call.layer)
    device = call.q.device
    remote = any(level.is_remote(call.layer, device) for level in pass_.store.levels)
    if device.type == "cpu" and not remote:
        return _attend(call, b, levels, choice_reads(pass_, b, place, choice, budget, size))
    count, table = _plan(pass_, b, place, choice, budget, size)
    key = (place.sequence, "gathered", call.layer)
    known = pass_.state.get(key)
    if known is None or known[0] is not choice:
        k, v = (_gathered([pair[part] for pair in levels], place, choice, size) for part in (0, 1))
        known = pass_.state[key] = (choice, k[None], v[None])
    gathered = [len(levels), 0, 0, count * size, 0, 0, 1, 0]
    table = np.concatenate([table[table[:, 7] == 0], [gathered]])
    levels = [*levels, (known[1], known[2])]
    return _attend(call, b, levels, _reads(pass_, b, table))


def _plan(
    pass_: ForwardPass, b: int, place: Place, choice: Choice, budget: int, size: int
) -> tuple[int, NDArray[np.int64]]:
    """How many pages are read of a choice, and the kernel's table of reads: the same for all layers
    of a pass whose choices cover the same tokens."""
    assert choice.pages is not None
    key = (b, "reads", choice.pages.shape[1], *choice.covered)
    if key not in pass_.plans:
        count, spans = extent(choice, place, budget, size)
        spans += whole(place, place.readable)
        table = _table(pass_, place, spans)
        paged = [
            [at, place.rows[at], 0, covered, 0, 0, 1, i + 1]
            for i, (at, covered) in enumerate(choice.covered_levels)
        ]
        tokens = count * size + sum(end - start for _, start, end in spans)
        pass_.plans[key] = count, np.array(table + paged, np.int64), tokens
    count, reads, tokens = pass_.plans[key]
    place.note(tokens)
    return count, reads


def _gathered(buffers: list[Any], place: Place, choice: Choice, size: int) -> Tensor:
    """The chosen pages, best first, out of one buffer a level: `[Hkv, n, D]`."""
    assert choice.pages is not None
    offset, out = 0, None
    for at, covered in choice.covered_levels:
        count = covered // size
        local = (choice.pages - offset).clamp(0, count - 1)
        buffer = buffers[at][place.rows[at]]
        part = gather_pages(buffer, local.to(buffer.device), size).to(local.device)
        if out is None:
            out = part
        else:
            mine = (choice.pages >= offset).repeat_interleave(size, dim=1)
            out = torch.where(mine.unsqueeze(-1), part, out)
        offset += count
    assert out is not None
    return out


def _table(pass_: ForwardPass, place: Place, spans: list[Span]) -> list[list[int]]:
    """Reads of spans of the levels, and of what is staged behind the last one."""
    last = len(place.lengths) - 1
    table = [[at, place.rows[at], start, end, 0, 0, 1, 0] for at, start, end in spans if at != last]
    start = next((first for at, first, _ in spans if at == last), place.lengths[last])
    staged = pass_.staged + pass_.positions.shape[1]
    return [*table, [last, place.rows[last], start, place.lengths[last], staged, 0, 1, 0]]


def _reads(
    pass_: ForwardPass,
    b: int,
    table: NDArray[np.int64],
    pages: NDArray[np.int64] = NO_PAGES,
    size: int = 1,
) -> Reads:
    """The reads of a table, all of them by sequence b."""
    return Reads(table, _ONE, _words(pass_)[b : b + 1], NO_BOUNDS, pages, size)


def _attend(
    call: AttentionCall, b: int, levels: list[tuple[Tensor, Tensor]], reads: Reads
) -> Tensor:
    """Sequence b over some reads."""
    device, is_alone = call.q.device, len(call.q) == 1  # a slice costs as much as a short kernel
    if any(k.device != device for k, _ in levels):
        levels, table = _near(levels, reads.table, device)
        reads = replace(reads, table=table)
    return level_attention(
        call.q if is_alone else call.q[b : b + 1],
        levels,
        reads,
        scale=call.scale,
        softcap=call.softcap,
        sinks=call.sinks,
    )


def _near(
    levels: list[tuple[Tensor, Tensor]], table: NDArray[np.int64], device: torch.device
) -> tuple[list[tuple[Tensor, Tensor]], NDArray[np.int64]]:
    """The same reads with spans that lie in host memory brought to the device."""
    levels, table = list(levels), table.copy()
    for read in table:
        at, row, start, end = read[:4].tolist()
        if levels[at][0].device != device:
            k, v = (x[row : row + 1, :, start:end].to(device) for x in levels[at])
            read[:4] = len(levels), 0, 0, end - start
            levels.append((k, v))
    return levels, table


def _words(pass_: ForwardPass) -> NDArray[np.uint64]:
    """The ancestor mask as the kernel takes it, once a pass."""
    if "anc" not in pass_.plans:
        assert pass_.anc is not None
        pass_.plans["anc"] = pass_.anc.cpu().contiguous().numpy().view(np.uint64)
    words: NDArray[np.uint64] = pass_.plans["anc"]
    return words
