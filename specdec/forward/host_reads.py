"""Plans as CPU kernels take them: tables of reads, worked out once for all layers of a kind."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.plan import LayerPlan, RowPlan, Selection
from specdec.kernels.attention.level_attention import NO_BIASES, NO_BOUNDS, NO_PAGES, Reads
from specdec.kernels.attention.tree_attention import windowed
from specdec.kernels.precision import wide

Read = tuple[int, int, int, int, int, list[int]]  # level, row, start, end, tail, sequences


def host_reads(pass_: ForwardPass, plan: LayerPlan, layer: int, window: int | None) -> Reads:
    """What a layer reads in host memory, noted as read."""
    if plan.rows is None:
        note_all(pass_, layer, window)
        return full_reads(pass_, window)
    segments = pass_.segments(layer)
    key = tuple(map(_key, plan.rows))
    if key not in pass_.cache.tables:
        counts = [_count(row, x) for row, x in zip(plan.rows, segments, strict=True)]
        members = np.repeat(np.arange(len(counts)), counts)
        pass_.cache.tables[key] = _table(pass_, plan.rows, segments), members
    for row, mine in zip(plan.rows, segments, strict=True):
        note(row, mine, layer)
    table, members = pass_.cache.tables[key]
    pages, size = _pages(plan.rows)
    return Reads(table, members, pass_.anc_words, NO_BOUNDS, pages, size, biases(plan.rows))


def note(row: RowPlan, segments: Segments, layer: int) -> None:
    """Count what a layer reads of a sequence."""
    if row.selection is None:
        segments.note_all(layer)
        return
    held = zip(segments.lengths, row.since, strict=True)
    tokens = row.num_pages * row.selection.page_size
    others = sum(end - start for end, start in held) + _num_entries(row)
    size: float = (tokens + others) * segments.token_bytes
    if row.selection.keys is not None and row.count:
        rebuilt = tokens * float((~row.selection.keys.exact[:, : row.count]).double().mean())
        size += rebuilt * (row.selection.keys.token_bytes - segments.token_bytes)
    segments.note(layer, tokens + others, round(size))


def note_all(pass_: ForwardPass, layer: int, window: int | None) -> None:
    """Count that a layer reads everything, for a view that may not; those with a window do not
    count."""
    if window is None and not pass_.view.lossless:
        for segments in pass_.segments(layer):
            segments.note_all(layer)


def full_reads(pass_: ForwardPass, window: int | None) -> Reads:
    """All committed keys and the staged nodes, kept on the pass for the layers that follow.

    window: of a sliding-window layer, in positions, the query's own included.
    """
    known = pass_.cache.full_reads.get(window)
    if known is None:
        known = pass_.cache.full_reads[window] = make_reads(pass_, committed(pass_), window)
    return known


def committed(pass_: ForwardPass) -> list[Read]:
    """A read for each row of each level, by all sequences that share it; the last one has tails."""
    store = pass_.store
    staged = pass_.staged + pass_.positions.shape[1]
    reads: list[Read] = []
    for at, (level, row_map) in enumerate(zip(store.levels, store.row_maps, strict=True)):
        is_last = at == len(store.levels) - 1
        lengths = level.length.tolist()
        sharing: dict[int, list[int]] = {}
        for b, row in enumerate(row_map[list(pass_.sequences)].tolist()):
            sharing.setdefault(row, []).append(b)
        for row, members in sharing.items():
            if is_last:
                reads.append((at, row, 0, lengths[row], staged, members))
            elif lengths[row]:
                reads.append((at, row, 0, lengths[row], 0, members))
    return reads


def make_reads(pass_: ForwardPass, reads: list[Read], window: int | None) -> Reads:
    """The kernel's form of some reads; with a window, their keys are cut to what it shows."""
    assert pass_.anc is not None
    nodes, anc = pass_.positions.shape[1], pass_.anc
    table = np.zeros((len(reads), 8), np.int64)
    members: list[int] = []
    for i, (level, row, start, end, tail, sequences) in enumerate(reads):
        table[i] = (level, row, start, end, tail, len(members), len(sequences), 0)
        members += sequences
    bounds = NO_BOUNDS
    if window is not None:
        bounds = _bounds(pass_, table, members, window)
        table[:, 2] = np.maximum(table[:, 2], bounds.min(axis=1, initial=1 << 62))
        table[:, 2] = np.minimum(table[:, 2], table[:, 3])
        assert pass_.staged_positions is not None
        if pass_.staged_positions.shape[1] > window:
            anc = windowed(anc, window, pass_.positions, pass_.staged_positions)
    words = anc.contiguous().numpy().view(np.uint64)
    return Reads(table, np.array(members, np.int64), words, bounds[:, : len(members) * nodes])


def with_entries(
    levels: list[tuple[Tensor, Tensor]], rows: Sequence[RowPlan] | None
) -> list[tuple[Tensor, Tensor]]:
    """The levels, and behind them the entries of each sequence that has some."""
    found = [row.entries for row in rows or () if row.entries is not None]
    return [*levels, *((x.k[None], x.v[None]) for x in found)] if found else levels


def biases(rows: Sequence[RowPlan]) -> NDArray[np.float32]:
    """The log-weights of all entries, `[K, Hkv, n]`, padded."""
    found = [x.entries.log_weight for x in rows if x.entries is not None]
    found = [wide(x) for x in found]
    if not found:
        return NO_BIASES
    widest = max(x.shape[1] for x in found)
    return np.stack([pad(x, (0, widest - x.shape[1])).cpu().numpy() for x in found])


def levels_of(pass_: ForwardPass, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of all levels in one layer; an empty level lends the last one's."""
    levels = pass_.store.levels
    last = levels[-1]
    pairs = [
        (x.k[layer], x.v[layer]) if x.k[layer] is not None else (last.k[layer], last.v[layer])
        for x in levels
    ]
    return pairs  # type: ignore[return-value]


def spans_of(row: RowPlan, segments: Segments) -> list[tuple[int, int, int]]:
    """(level, start, end) of what is read of the levels below the last one, in order."""
    held = zip(row.since[:-1], segments.lengths, strict=False)
    return [(at, start, end) for at, (start, end) in enumerate(held) if start < end]


def table_of(
    pass_: ForwardPass,
    row: RowPlan,
    segments: Segments,
    first: int = 0,
    paged: int = 0,
    biased: int = 0,
) -> list[list[int]]:
    """The reads of a sequence: of spans, of what is staged, of pages and of entries.

    first: where the reads' members begin; paged: its first pages in `Reads.pages`; biased: its
    entries among those of all, which come as levels behind the store's.
    """
    last = len(segments.lengths) - 1
    staged = pass_.staged + pass_.positions.shape[1]
    end = segments.lengths[last]
    table = [
        [at, segments.rows[at], start, end, 0, 0, 1, 0]
        for at, start, end in spans_of(row, segments)
    ]
    table.append([last, segments.rows[last], min(row.since[last], end), end, staged, 0, 1, 0])
    if row.selection is not None:
        table += [
            [at, segments.rows[at], 0, covered, 0, 0, 1, paged + i + 1]
            for i, (at, covered) in enumerate(row.selection.levels)
        ]
    if row.entries is not None:
        at = len(segments.lengths) + biased
        table.append([at, 0, 0, _num_entries(row), 0, 0, 1, -1 - biased])
    for i, read in enumerate(table):
        read[5] = first + i
    return table


def _table(
    pass_: ForwardPass, rows: Sequence[RowPlan], segments: Sequence[Segments]
) -> NDArray[np.int64]:
    table: list[list[int]] = []
    paged = biased = 0
    for row, mine in zip(rows, segments, strict=True):
        table += table_of(pass_, row, mine, len(table), paged, biased)
        paged += len(_levels(row.selection))
        biased += row.entries is not None
    return np.array(table, np.int64)


def _count(row: RowPlan, segments: Segments) -> int:
    """How many reads a sequence has."""
    paged = len(_levels(row.selection))
    return len(spans_of(row, segments)) + 1 + paged + (row.entries is not None)


def _num_entries(row: RowPlan) -> int:
    return 0 if row.entries is None else row.entries.k.shape[1]


def _levels(selection: Selection | None) -> list[tuple[int, int]]:
    return [] if selection is None else selection.levels


def _key(row: RowPlan) -> Hashable:
    """What tables go by, and the shape of `pages`, too: fused layers with one table share both."""
    chosen = None
    if row.selection is not None:
        chosen = row.selection.covered, row.selection.page_size, row.count
    return row.since, chosen, None if row.entries is None else _num_entries(row)


def _pages(rows: Sequence[RowPlan]) -> tuple[NDArray[np.int64], int]:
    """The selected pages of all sequences, `[K, Hkv, P]`, -1 behind the last; and their size."""
    chosen = [(row.selection, row.count) for row in rows if row.selection is not None]
    if not chosen:
        return NO_PAGES, 1
    parts = [selection.local[:, :, :count] for selection, count in chosen]
    if len(parts) > 1:
        widest = max(part.shape[2] for part in parts)
        parts = [
            np.pad(x, ((0, 0), (0, 0), (0, widest - x.shape[2])), constant_values=-1) for x in parts
        ]
        parts = [np.concatenate(parts)]
    return np.ascontiguousarray(parts[0]), chosen[0][0].page_size


def _bounds(
    pass_: ForwardPass, table: NDArray[np.int64], members: list[int], window: int
) -> NDArray[np.int64]:
    """The first key slot of each read that each of its queries sees; never behind its end."""
    store, positions = pass_.store, pass_.positions.numpy()
    nodes = positions.shape[1]
    bounds = np.zeros((len(table), int(table[:, 6].max(initial=1)) * nodes), np.int64)
    for i, (at, _, _, end, _, first, count, _) in enumerate(table.tolist()):
        for m, b in enumerate(members[first : first + count]):
            below = zip(store.levels[:at], store.row_maps[:at], strict=True)
            offset = sum(int(level.length[rows[pass_.sequences[b]]]) for level, rows in below)
            seen = positions[b] - (window - 1) - offset
            bounds[i, m * nodes : (m + 1) * nodes] = np.clip(seen, 0, end)
        bounds[i, count * nodes :] = bounds[i, : count * nodes].min(initial=end)
    return bounds
