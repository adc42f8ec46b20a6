"""Placed sparse passes: scored, chosen and read on the device, without a word from the host."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from specdec.device_reads import DeviceReads
from specdec.forward_pass import AttentionCall, ForwardPass
from specdec.kernels.gather_attention import gather_attention
from specdec.kernels.merge import merge
from specdec.kernels.prefix_attention import prefix_attention
from specdec.kernels.topk_pages import places, topk_pages
from specdec.sparse.layout import token_bytes
from specdec.sparse.level_index import LevelIndex, LevelScorer
from specdec.stats import Reads
from specdec.store import KVStore
from specdec.view import placed_tree, sink_partial

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView

_STATE = "placed"  # the key of what a placed view keeps in a pass's state


class PlacedChoices:
    """The pages that a draft reads, `int32[sequences, Hkv, K]` for each anchor layer.

    They stand in memory of their own, so that the passes of a round that do not choose read what
    the first one chose.
    """

    def __init__(self, index: LevelIndex) -> None:
        self.index = index
        self.pages: dict[int, Tensor] = {}


def ready(
    view: SparseView,
    store: KVStore,
    sequences: Sequence[int],
    state: dict[Any, Any],
    layers: int,
    device: torch.device,
) -> Hashable | None:
    """Bring the index up to date and make room for choices, in place.

    Returns all addresses that passes will read besides the store's, and the view; None where such
    passes cannot be placed: choices from several levels, by others' queries or for longer than a
    round, and layers without keys yet.
    """
    scorer = view.scorer
    if view.queries != "draft" or view.refresh not in ("pass", "round"):
        return None
    if not isinstance(scorer, LevelScorer) or len(store.levels) != 1 + bool(store.num_shared):
        return None
    level = store.levels[0]
    anchors = [layer for layer in range(layers) if view.sharing.anchor_of(layer) == layer]
    if any(level.k[layer] is None for layer in range(layers)):
        return None
    index = LevelIndex.of(level, scorer)
    index.update(level, anchors, device)
    choices = state.get(_STATE)
    if choices is None:
        choices = state[_STATE] = PlacedChoices(index)
    width = places(level.capacity // scorer.page_size, scorer.page_size, view.budget)
    for layer in anchors:
        keys = level.k[layer]
        if layer not in choices.pages and keys is not None:
            shape = store.sequences, keys.shape[1], width
            choices.pages[layer] = torch.full(shape, -1, dtype=torch.int32, device=device)
    if anchors:
        _note(view, store, sequences, state, index, token_bytes(level, anchors[0]))
    return view, index.addresses, tuple(x.data_ptr() for x in choices.pages.values())


def attend(view: SparseView, pass_: ForwardPass, call: AttentionCall) -> Tensor:
    """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
    reads = DeviceReads.of(pass_, call.q.device)
    reads.stage(call)
    choices: PlacedChoices = pass_.state[_STATE]
    anchor = view.sharing.anchor_of(call.layer)
    assert anchor is not None and choices.index.covered_on is not None
    covered = choices.index.covered_on
    if anchor == call.layer and (view.refresh == "pass" or not reads.is_later):
        _choose(view, pass_, call, reads, choices, covered)
    partials, base = [], reads.levels[0]
    if view.sharing.reads_all(call.layer):
        partials.append(_prefix(call, reads, 0, reads.first(None, 0)))
    else:
        size = view.scorer.page_size
        k, v = base.buffers(call.layer, call.k, call.v)
        pages = choices.pages[anchor][reads.row_maps[-1].long()]
        partials.append(
            gather_attention(
                call.q, k, v, pages, covered, reads.row_maps[0],
                page_size=size, scale=call.scale, softcap=call.softcap,
            )
        )  # fmt: skip
        since = covered[reads.row_maps[0].long()].long()[:, None]
        since = since.expand(-1, call.q.shape[2]).contiguous()
        partials.append(_prefix(call, reads, 0, since))
    if len(reads.levels) > 1:
        partials.append(_prefix(call, reads, 1, None))
    if not reads.is_plain:
        partials.append(placed_tree(pass_, call, reads))
    if call.sinks is not None:
        partials.append(sink_partial(call))
    return merge(partials)[0].to(call.q.dtype)


def _choose(
    view: SparseView,
    pass_: ForwardPass,
    call: AttentionCall,
    reads: DeviceReads,
    choices: PlacedChoices,
    covered: Tensor,
) -> None:
    """Score the pages of the first level and keep the best of each sequence, in place."""
    scorer, rows = view.scorer, reads.row_maps[0]
    assert isinstance(scorer, LevelScorer)
    scores = scorer.scores(call.q, choices.index.summaries[call.layer], covered, rows)
    if view.sharing.all_heads:
        scores = scores.amax(1, keepdim=True).expand_as(scores).contiguous()
    full = covered[rows.long()]
    best = topk_pages(
        scores,
        full // scorer.page_size,
        reads.lengths[0][rows.long()] - full,
        page_size=scorer.page_size,
        budget=view.budget,
        sink=view.sink,
        recent=view.recent,
    )
    choices.pages[call.layer].index_copy_(0, reads.row_maps[-1].long(), best)


def _prefix(
    call: AttentionCall, reads: DeviceReads, place: int, first: Tensor | None
) -> tuple[Tensor, Tensor]:
    k, v = reads.levels[place].buffers(call.layer, call.k, call.v)
    return prefix_attention(
        call.q, k, v, reads.read(place), reads.row_maps[place],
        scale=call.scale, softcap=call.softcap, first=first,
    )  # fmt: skip


def _note(
    view: SparseView,
    store: KVStore,
    sequences: Sequence[int],
    state: dict[Any, Any],
    index: LevelIndex,
    token: int,
) -> None:
    """Count what a layer that leaves something out reads of the committed text, at `token` bytes
    each."""
    size = view.scorer.page_size
    for sequence in sequences:
        row = int(store.row_maps[0][sequence])
        there, full = store.length(sequence), int(index.covered[row])
        tail = int(store.levels[0].length[row]) - full
        chosen = min(full, max(0, view.budget - tail) // size * size)
        reads = state.setdefault(("reads", sequence), Reads())
        reads.begin(there, token)
        reads.note(there - full + chosen, (there - full + chosen) * token)
