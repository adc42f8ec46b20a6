"""What a pass reads of the store's levels, worked out once for all layers of a kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specdec.forward.forward_pass import ForwardPass
from specdec.kernels.attention.level_attention import NO_BOUNDS, Reads
from specdec.kernels.attention.tree_attention import windowed

Read = tuple[int, int, int, int, int, list[int]]  # level, row, start, end, tail, sequences


def full_reads(pass_: ForwardPass, window: int | None) -> Reads:
    """All committed keys and the staged nodes, kept on the pass for the layers that follow.

    window: of a sliding-window layer, in positions, the query's own included.
    """
    key = ("reads", window)
    if key not in pass_.plans:
        pass_.plans[key] = make_reads(pass_, committed(pass_), window)
    known: Reads = pass_.plans[key]
    return known


def committed(pass_: ForwardPass) -> list[Read]:
    """A read for each row of each level, by all sequences that share it; the last one has tails."""
    store = pass_.store
    staged = pass_.staged + pass_.positions.shape[1]
    reads: list[Read] = []
    for place, (level, row_map) in enumerate(zip(store.levels, store.row_maps, strict=True)):
        is_last = place == len(store.levels) - 1
        lengths = level.length.tolist()
        sharing: dict[int, list[int]] = {}
        for b, row in enumerate(row_map[list(pass_.sequences)].tolist()):
            sharing.setdefault(row, []).append(b)
        for row, members in sharing.items():
            if is_last:
                reads.append((place, row, 0, lengths[row], staged, members))
            elif lengths[row]:
                reads.append((place, row, 0, lengths[row], 0, members))
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


def _bounds(
    pass_: ForwardPass, table: NDArray[np.int64], members: list[int], window: int
) -> NDArray[np.int64]:
    """The first key slot of each read that each of its queries sees; never behind its end."""
    store, positions = pass_.store, pass_.positions.numpy()
    nodes = positions.shape[1]
    bounds = np.zeros((len(table), int(table[:, 6].max(initial=1)) * nodes), np.int64)
    for i, (place, _, _, end, _, first, count, _) in enumerate(table.tolist()):
        for m, b in enumerate(members[first : first + count]):
            below = zip(store.levels[:place], store.row_maps[:place], strict=True)
            offset = sum(int(level.length[rows[pass_.sequences[b]]]) for level, rows in below)
            seen = positions[b] - (window - 1) - offset
            bounds[i, m * nodes : (m + 1) * nodes] = np.clip(seen, 0, end)
        bounds[i, count * nodes :] = bounds[i, : count * nodes].min(initial=end)
    return bounds
