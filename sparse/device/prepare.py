"""Readiness: what the host does for a placed sparse pass before it runs, or its graph."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from specdec.decoding.stats import Reads
from specdec.forward.pass_ahead import PassAhead
from specdec.sparse.budget import shares
from specdec.sparse.choose import Choice
from specdec.sparse.device.level_index import LevelIndex, LevelScorer
from specdec.sparse.device.selections import STATE, PlacedChoices
from specdec.sparse.device.standing_selections import standing
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.sequence_places import token_bytes

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView


def ready(view: SparseView, ahead: PassAhead) -> Hashable | None:
    """Bring the index up to date, take over standing choices and make room for new ones, in place.

    Returns all addresses that passes will read besides the store's, and the view; None where the
    next pass cannot be placed: it chooses from several levels, or by others' queries, or for longer
    than a round, or by a scorer that knows no whole level; or layers have no keys yet.
    """
    store = ahead.store
    level, size = store.levels[0], view.scorer.page_size
    anchors = [layer for layer in ahead.layers if view.sharing.anchor_of(layer) == layer]
    if len(store.levels) != 1 + bool(store.num_shared) or any(level.k[i] is None for i in anchors):
        return None
    chooses, index = _chooses(view), None
    held = {} if chooses else standing(view, ahead, anchors)
    if held is None:
        return None
    if chooses and isinstance(view.scorer, LevelScorer):
        index = LevelIndex.of(level, view.scorer)
        queries = None if ahead.recorder is None else ahead.recorder.prompt
        index.update(level, anchors, ahead.device, queries)
    choices = ahead.state.get(STATE)
    if choices is None:
        choices = ahead.state[STATE] = PlacedChoices(store, chooses, index, ahead.device)
    choices.make_room(store, anchors, size, view.budget)
    choices.hold(held)
    extents = {}
    for sequence in ahead.sequences:
        there = int(level.length[store.row_maps[0][sequence]])
        known = held.get((sequence, anchors[0])) if anchors else None
        extents[sequence] = _extent(view, there, chooses, known)
    choices.read(extents)
    if anchors:
        _note(view, ahead, extents, token_bytes(level, anchors[0]))
    return view, choices.addresses


def _chooses(view: SparseView) -> bool:
    """Whether passes choose for themselves: for a round at most, by their own queries, and by a
    scorer that scores all rows of a level without the host."""
    if view.queries != "draft" or view.refresh not in ("pass", "round"):
        return False
    if isinstance(view.scorer, ExactMass):
        return view.pool == 1
    return isinstance(view.scorer, LevelScorer)


def _extent(view: SparseView, there: int, chooses: bool, known: Choice | None) -> tuple[int, int]:
    """How many chosen pages of `there` tokens are read, and the first token that is besides."""
    size = view.scorer.page_size
    if chooses:
        full, tail = there // size, there % size
        return min(full, max(0, view.budget - tail) // size), full * size
    if known is None or known.pages is None:
        return 0, 0
    (covered,) = known.covered
    pages, cut = shares(known.pages.shape[1], there - covered, view.budget, size)
    return pages, covered + cut


def _note(
    view: SparseView, ahead: PassAhead, extents: Mapping[int, tuple[int, int]], token: int
) -> None:
    """Count what a layer that leaves something out reads of the committed text, at `token` bytes
    each."""
    for sequence, (pages, since) in extents.items():
        there = ahead.store.length(sequence)
        read = there - since + pages * view.scorer.page_size
        reads = ahead.state.setdefault(("reads", sequence), Reads())
        reads.begin(there, token)
        reads.note(read, read * token)
