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
from specdec.kernels.page_mass import page_mass
from specdec.kernels.prefix_attention import prefix_attention
from specdec.kernels.topk_pages import topk_pages
from specdec.sparse.exact_mass import ExactMass
from specdec.sparse.layout import token_bytes
from specdec.sparse.level_index import LevelIndex, LevelScorer
from specdec.sparse.placed_choices import PlacedChoices
from specdec.stats import Reads
from specdec.store import KVStore
from specdec.view import placed_tree, sink_partial

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView

Partial = tuple[Tensor, Tensor]  # (o, lse) of some of the keys

_STATE = "placed"  # the key of what a placed view keeps in a pass's state


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
    round, by scorers that know no whole level, and layers without keys yet.
    """
    if view.queries != "draft" or view.refresh not in ("pass", "round"):
        return None
    if not _scores_levels(view) or len(store.levels) != 1 + bool(store.num_shared):
        return None
    level, size = store.levels[0], view.scorer.page_size
    anchors = [layer for layer in range(layers) if view.sharing.anchor_of(layer) == layer]
    if any(level.k[layer] is None for layer in range(layers)):
        return None
    index = None
    if isinstance(view.scorer, LevelScorer):
        index = LevelIndex.of(level, view.scorer)
        index.update(level, anchors, device)
    choices = state.get(_STATE)
    if choices is None:
        choices = state[_STATE] = PlacedChoices(store, index, device)
    choices.make_room(store, anchors, size, view.budget)
    choices.read_since((level.length // size * size)[store.row_maps[0].long()])
    if anchors:
        _note(view, store, sequences, state, token_bytes(level, anchors[0]))
    return view, choices.addresses


def _scores_levels(view: SparseView) -> bool:
    """Whether the scorer scores all rows of a level without the host."""
    if isinstance(view.scorer, ExactMass):
        return view.pool == 1
    return isinstance(view.scorer, LevelScorer)


def attend(view: SparseView, pass_: ForwardPass, call: AttentionCall) -> Tensor:
    """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
    reads = DeviceReads.of(pass_, call.q.device)
    reads.stage(call)
    choices: PlacedChoices = pass_.state[_STATE]
    anchor = view.sharing.anchor_of(call.layer)
    assert anchor is not None
    whole = _prefix(call, reads, 0, None) if view.sharing.reads_all(call.layer) else None
    if anchor == call.layer and (view.refresh == "pass" or not reads.is_later):
        _choose(view, call, reads, choices, whole)
    if whole is not None:
        partials = [whole]
    else:
        sequences, k, v = (
            reads.row_maps[-1].long(),
            *reads.levels[0].buffers(call.layer, call.k, call.v),
        )
        since = choices.since[sequences].long()[:, None].expand(-1, call.q.shape[2])
        partials = [
            gather_attention(
                call.q, k, v, choices.pages[anchor][sequences], reads.lengths[0],
                reads.row_maps[0], page_size=view.scorer.page_size, scale=call.scale,
                softcap=call.softcap,
            ),
            _prefix(call, reads, 0, since.contiguous()),
        ]  # fmt: skip
    if len(reads.levels) > 1:
        partials.append(_prefix(call, reads, 1, None))
    if not reads.is_plain:
        partials.append(placed_tree(pass_, call, reads))
    if call.sinks is not None:
        partials.append(sink_partial(call))
    return merge(partials)[0].to(call.q.dtype)


def _choose(
    view: SparseView,
    call: AttentionCall,
    reads: DeviceReads,
    choices: PlacedChoices,
    whole: Partial | None,
) -> None:
    """Score the pages of the first level and keep the best of each sequence, in place.

    whole: attention over the level, where it has been computed.
    """
    scorer, rows, index = view.scorer, reads.row_maps[0], choices.index
    sequences = reads.row_maps[-1].long()
    if index is not None:
        assert isinstance(scorer, LevelScorer) and index.covered_on is not None
        scores = scorer.scores(call.q, index.summaries[call.layer], index.covered_on, rows)
    else:
        _, lse = _prefix(call, reads, 0, None) if whole is None else whole
        k, _ = reads.levels[0].buffers(call.layer, call.k, call.v)
        scores = page_mass(
            call.q, k, lse, reads.lengths[0], rows,
            page_size=scorer.page_size, scale=call.scale, softcap=call.softcap, votes=view.votes,
        )[:, :, : k.shape[2] // scorer.page_size]  # fmt: skip
    if view.sharing.all_heads:
        scores = scores.amax(1, keepdim=True).expand_as(scores).contiguous()
    full = choices.since[sequences]
    best = topk_pages(
        scores,
        full // scorer.page_size,
        reads.lengths[0][rows.long()] - full,
        page_size=scorer.page_size,
        budget=view.budget,
        sink=view.sink,
        recent=view.recent,
    )
    choices.pages[call.layer].index_copy_(0, sequences, best)


def _prefix(call: AttentionCall, reads: DeviceReads, place: int, first: Tensor | None) -> Partial:
    """Attention over the tokens of a level from the `first` that each node sees."""
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
    token: int,
) -> None:
    """Count what a layer that leaves something out reads of the committed text, at `token` bytes
    each."""
    size = view.scorer.page_size
    for sequence in sequences:
        row = int(store.row_maps[0][sequence])
        there, held = store.length(sequence), int(store.levels[0].length[row])
        full, tail = held // size * size, held % size
        chosen = min(full, max(0, view.budget - tail) // size * size)
        reads = state.setdefault(("reads", sequence), Reads())
        reads.begin(there, token)
        reads.note(there - full + chosen, (there - full + chosen) * token)
