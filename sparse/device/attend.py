"""Placed sparse passes: scored, chosen and read on the device, without a word from the host.

`readiness` is what comes before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from specdec.forward.device_reads import DeviceReads
from specdec.forward.forward_pass import AttentionCall, ForwardPass
from specdec.forward.full_view import placed_tree, sink_partial
from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.selection.page_mass import page_mass
from specdec.kernels.selection.topk_pages import topk_pages
from specdec.sparse.device.level_index import LevelScorer
from specdec.sparse.device.selections import STATE, PlacedChoices

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView

Partial = tuple[Tensor, Tensor]  # (o, lse) of some of the keys


def attend(view: SparseView, pass_: ForwardPass, call: AttentionCall) -> Tensor:
    """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
    reads = DeviceReads.of(pass_, call.q.device)
    reads.stage(call)
    choices: PlacedChoices = pass_.state[STATE]
    anchor = view.sharing.anchor_of(call.layer)
    assert anchor is not None
    whole = _prefix(call, reads, 0, None) if view.sharing.reads_all(call.layer) else None
    is_due = view.refresh == "pass" or not reads.is_later
    if choices.chooses and anchor == call.layer and is_due:
        _choose(view, call, reads, choices, whole)
    partials = _chosen(view, call, reads, choices, anchor) if whole is None else [whole]
    if len(reads.levels) > 1:
        partials.append(_prefix(call, reads, 1, None))
    if not reads.is_plain:
        partials.append(placed_tree(pass_, call, reads))
    if call.sinks is not None:
        partials.append(sink_partial(call))
    return merge(partials)[0].to(call.q.dtype)


def _chosen(
    view: SparseView, call: AttentionCall, reads: DeviceReads, choices: PlacedChoices, anchor: int
) -> list[Partial]:
    """Attention over an anchor's choices in the first level, and over what is read besides."""
    sequences = reads.row_maps[-1].long()
    k, v = reads.levels[0].buffers(call.layer, call.k, call.v)
    pages = gather_attention(
        call.q, k, v, choices.of(anchor, sequences), reads.lengths[0], reads.row_maps[0],
        page_size=view.scorer.page_size, scale=call.scale, softcap=call.softcap,
    )  # fmt: skip
    since = choices.since[sequences].long()[:, None].expand(-1, call.q.shape[2])
    return [pages, _prefix(call, reads, 0, since.contiguous())]


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
