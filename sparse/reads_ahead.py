"""Ahead: what the layers of a pass will read, said before the first of them runs.

The layers can then run in one call (`decoder_run`), which also chooses where a layer asks its index
with its own queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from specdec.forward.forward_pass import ForwardPass, ReadAhead
from specdec.forward.full_view import FullView, may_read_ahead
from specdec.kernels.linear.decoder_run import Choosing
from specdec.sparse.attend import choice_reads, whole_reads
from specdec.sparse.choose import Choice, settings
from specdec.sparse.page_index import PageIndex
from specdec.sparse.sequence_places import Layout, Place

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView


def reads_ahead(
    view: SparseView, pass_: ForwardPass, layers: Sequence[int], window: int | None
) -> list[ReadAhead] | None:
    """What each of these layers reads; None where a layer chooses in a way that no kernel does, or
    a sequence shares the pass with others, which read other pages."""
    if not may_read_ahead(pass_):
        return None
    if window is not None or all(view.sharing.anchor_of(layer) is None for layer in layers):
        return FullView().reads_ahead(pass_, layers, window)
    places = Layout.of(pass_, layers[0]).places
    if all(place.total <= view.budget for place in places):
        return FullView().reads_ahead(pass_, layers, window)
    if len(places) > 1:
        return None
    place, made = places[0], dict[int, tuple[Choice, Choosing]]()
    for layer in layers:
        if view.sharing.anchor_of(layer) == layer and _is_due(view, pass_, layer, place):
            choosing = _choosing(view, pass_, layer, place)
            if choosing is None:
                return None
            made[layer] = choosing
        elif _is_due(view, pass_, view.sharing.anchor_of(layer), place, made):
            return None
    for layer, (choice, _) in made.items():
        pass_.state[place.sequence, layer] = choice
    ahead = []
    for layer in layers:
        anchor = view.sharing.anchor_of(layer)
        known: Choice | None = pass_.state.get((place.sequence, anchor))
        if known is None or known.pages is None or view.sharing.reads_all(layer):
            reads = whole_reads(pass_, 0, place)
        else:
            reads = choice_reads(pass_, 0, place, known, view.budget, view.scorer.page_size)
        ahead.append((reads, made[layer][1] if layer in made else None))
    return ahead


def _is_due(
    view: SparseView,
    pass_: ForwardPass,
    anchor: int | None,
    place: Place,
    made: dict[int, tuple[Choice, Choosing]] | None = None,
) -> bool:
    """Whether an anchor has to choose anew before it, or who shares its pages, can read."""
    if anchor is None or (made and anchor in made):
        return False
    known: Choice | None = pass_.state.get((place.sequence, anchor))
    here = pass_.state, place.sequence, place.round, place.lengths
    return known is None or view.is_due(known, *here)


def _choosing(
    view: SparseView, pass_: ForwardPass, layer: int, place: Place
) -> tuple[Choice, Choosing] | None:
    """An anchor's choice, its pages still to be filled, and how a kernel makes it. None where other
    queries choose than its own, or more than a product with them and an index that is there, or
    one that is exact because it reads everything."""
    level, row, length = pass_.store.levels[0], place.rows[0], place.lengths[0]
    index, keys = PageIndex.of(level, layer, row, view.scorer), level.k[layer]
    if view.queries != "draft" or view.sharing.exact_anchors or place.readable > 1:
        return None
    if index is None or keys is None or length < view.scorer.page_size:
        return None
    pages = index.update(keys[row], length, keys.device)
    asked = keys[row][:, :1]
    question = view.scorer.question(asked, index.memo)
    if question is None or question[0] is not asked or index.summary is None:
        return None
    how = settings(view, place, pages)
    chosen: Tensor = torch.zeros(keys.shape[1], how.pop("count"), dtype=torch.int64)
    where: np.ndarray = chosen.numpy()[None]
    choosing = Choosing(index.summary[:, :pages].flatten(2), where, question[1], **how)
    size = view.scorer.page_size
    return Choice(place.round, chosen, [pages * size], size), choosing
