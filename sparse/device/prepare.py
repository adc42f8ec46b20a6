"""prepare: what the host does for a static sparse pass before it runs, or its graph."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from specdec.forward.layout import token_bytes
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import Selection
from specdec.forward.prompt_queries import PromptQueries
from specdec.forward.view_reads import LayerRead
from specdec.sparse.budget import split
from specdec.sparse.device.level_index import LevelIndex
from specdec.sparse.device.selections import StaticSelections
from specdec.sparse.device.standing_selections import standing
from specdec.sparse.policy import Policy
from specdec.sparse.triggers.every_pass import EveryPass
from specdec.sparse.triggers.every_rounds import EveryRounds


def prepare(policy: Policy, ahead: PassAhead) -> Hashable | None:
    """Bring the index up to date, take over standing selections and allocate new ones, in place.

    Returns all addresses that passes will read besides the store's, and the view; None where the
    next pass cannot be static: it selects from several levels, or by others' queries, or for longer
    than a round, or by a scorer that knows no whole level; heads have budgets of their own, or
    something stands for what is left out; or layers have no keys yet.
    """
    store = ahead.store
    level, size = store.levels[0], policy.page_size
    anchors = [layer for layer in ahead.layers if policy.sharing.anchor_of(layer) == layer]
    if len(store.levels) != 1 + bool(store.num_shared) or any(level.k[i] is None for i in anchors):
        return None
    if not policy.is_even:
        return None
    selects, index = _selects(policy), None
    held = {} if selects else standing(policy, ahead, anchors)
    if held is None:
        return None
    if selects and policy.scorer.level is not None:
        index = LevelIndex.of(level, policy.scorer.level)
        index.update(level, anchors, ahead.device, PromptQueries.of(store).window)
    selections = ahead.state.static
    if selections is None:
        selections = ahead.state.static = StaticSelections(store, selects, index, ahead.device)
    assert isinstance(selections, StaticSelections)
    selections.allocate(store, anchors, size, policy.budget)
    selections.hold(held)
    extents = {}
    for sequence in ahead.sequences:
        there = int(level.length[store.row_maps[0][sequence]])
        known = held.get((sequence, anchors[0])) if anchors else None
        extents[sequence] = _extent(policy, there, selects, known)
    selections.read(extents)
    _note(policy, ahead, extents)
    return policy, selections.addresses


def _selects(policy: Policy) -> bool:
    """Whether passes choose for themselves: for a round at most, by their own queries, and by a
    scorer that scores all rows of a level without the host."""
    if policy.importance is not None:
        return False
    if policy.queries != "draft" or policy.trigger not in (EveryPass(), EveryRounds(1)):
        return False
    if policy.scorer.is_exact:
        return policy.pool == 1
    return policy.scorer.level is not None


def _extent(policy: Policy, there: int, selects: bool, known: Selection | None) -> tuple[int, int]:
    """How many chosen pages of `there` tokens are read, and the first token that is besides."""
    size = policy.page_size
    if selects:
        full, tail = there // size, there % size
        return min(full, max(0, policy.budget - tail) // size), full * size
    if known is None or known.pages is None:
        return 0, 0
    (covered,) = known.covered
    pages, cut = split(known.num_pages, there - covered, policy.budget, size)
    return pages, covered + cut


def _note(policy: Policy, ahead: PassAhead, extents: Mapping[int, tuple[int, int]]) -> None:
    """Count what the layers read of the committed text."""
    level = ahead.store.levels[0]
    for sequence, (pages, since) in extents.items():
        there = ahead.store.length(sequence)
        read = there - since + pages * policy.page_size
        reads = ahead.state.reads_of(sequence)
        reads.begin(there)
        for layer in ahead.layers:
            size = token_bytes(level, layer)
            is_part = read < there and not policy.sharing.reads_all(layer)
            is_part = is_part and policy.sharing.anchor_of(layer) is not None
            tokens = read if is_part else there
            reads.note(layer, LayerRead(tokens, tokens * size, there * size, is_part))
