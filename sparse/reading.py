"""Reading: attention of one sequence over what a choice leaves of its committed text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specdec.forward_pass import AttentionCall, ForwardPass
from specdec.kernels.softmax import partial_softmax
from specdec.sparse.choosing import Choice, packed
from specdec.sparse.layout import Place
from specdec.sparse.page_index import gather

Span = tuple[int, int, int]  # level, first token, end


def whole(place: Place, first: int = 0) -> list[Span]:
    """Everything committed from level `first` on."""
    levels = range(first, len(place.lengths))
    return [(at, 0, place.lengths[at]) for at in levels if place.lengths[at]]


def extent(choice: Choice, place: Place, budget: int, size: int) -> tuple[int, list[Span]]:
    """How many of the chosen pages are read, and which tokens committed since, within `budget`.

    The longer a choice stands, the more text there is since. Its pages make way, lowest score
    first, down to half of the budget; then the oldest of what came since does.
    """
    assert choice.pages is not None
    spans = [(at, choice.covered[at], place.lengths[at]) for at in range(place.readable)]
    tail = sum(end - start for _, start, end in spans)
    pages = choice.pages.shape[1]
    pages = max(min(pages, max(0, budget - tail) // size), min(pages, budget // 2 // size))
    excess = max(0, tail - (budget - pages * size))
    kept = []
    for at, start, end in spans:
        cut = min(excess, end - start)
        excess -= cut
        if end > start + cut:
            kept.append((at, start + cut, end))
    return pages, kept


def attend_spans(
    pass_: ForwardPass, call: AttentionCall, b: int, place: Place, spans: list[Span]
) -> list[tuple[Tensor, Tensor]]:
    """Partials (o, lse) of sequence b over runs of committed tokens, read where they lie."""
    partials = []
    for at, start, end in spans:
        level, row = pass_.store.levels[at], place.rows[at]
        keys, values = level.k[call.layer], level.v[call.layer]
        if keys is not None and values is not None:
            partials.append(_attend(call, b, keys[row, :, start:end], values[row, :, start:end]))
    if not partials:
        keys = call.k[b, :, :0]
        partials.append(_attend(call, b, keys, call.v[b, :, :0]))
    return partials


def attend_choice(
    pass_: ForwardPass,
    call: AttentionCall,
    b: int,
    place: Place,
    choice: Choice,
    budget: int,
    size: int,
) -> list[tuple[Tensor, Tensor]]:
    """Partials (o, lse) of sequence b over a choice, what came since, and the draft's own level.

    The chosen keys and values are gathered once and kept for as long as the choice stands and the
    committed text does.
    """
    key = (place.sequence, "gathered", call.layer)
    known = pass_.state.get(key)
    if known is None or known[0] is not choice or known[1] != place.round:
        pages, spans = extent(choice, place, budget, size)
        buffers = (
            _gathered([level.k[call.layer] for level in pass_.store.levels], place, choice, pages,
                      spans, size),
            _gathered([level.v[call.layer] for level in pass_.store.levels], place, choice, pages,
                      spans, size),
        )  # fmt: skip
        known = pass_.state[key] = (choice, place.round, *buffers)
    keys, values = known[2], known[3]
    own = whole(place, place.readable)
    place.note(keys.shape[1] + sum(end for _, _, end in own))
    partials = [_attend(call, b, keys, values)]
    if own:
        partials.extend(attend_spans(pass_, call, b, place, own))
    return partials


def _gathered(
    buffers: list[Any], place: Place, choice: Choice, pages: int, spans: list[Span], size: int
) -> Tensor:
    """The first `pages` chosen pages, then `spans`, out of one buffer a level: `[Hkv, n, D]`."""
    assert choice.pages is not None
    chosen, offset, out = choice.pages[:, :pages], 0, None
    for at, covered in enumerate(choice.covered):
        count = covered // size
        if not count:
            continue
        part = gather(buffers[at][place.rows[at]], (chosen - offset).clamp(0, count - 1), size)
        if out is None:
            out = part
        else:
            mine = (chosen >= offset).repeat_interleave(size, dim=1)
            out = torch.where(mine.unsqueeze(-1), part, out)
        offset += count
    assert out is not None
    tail = [buffers[at][place.rows[at], :, start:end] for at, start, end in spans]
    return torch.cat([out, *tail], dim=1) if tail else out


def _attend(call: AttentionCall, b: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence's queries over `k[Hkv, S, D]`, `v[Hkv, S, Dv]`: o and lse with batch size 1."""
    _, heads, nodes, _ = call.q.shape
    o, lse = partial_softmax(
        packed(call.q[b], k.shape[0])[None],
        k[None],
        v[None],
        scale=call.scale,
        softcap=call.softcap,
    )
    return o.reshape(1, heads, nodes, -1), lse.reshape(1, heads, nodes)
