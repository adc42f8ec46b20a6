"""Spans: what a model's text part is handed, as Prompts that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.sampling.prompt import Prompt
from specdec.sampling.span import Span
from specdec.vision.digests import Digests
from specdec.vision.witness import Handed


def prompts_of(
    model: PreTrainedModel, ids: Tensor, mask: Tensor | None, given: Mapping[str, Any], seen: Handed
) -> list[Prompt]:
    """A Prompt for each row of `ids[B, n]`, without its padding, which `mask[B, n]` tells.

    given: the tensors of the images, which tell one image from another. Raises UnsupportedModel
    where tokens see each other in a way that no Span can say.
    """
    embedding: Any = model.get_input_embeddings()
    with torch.inference_mode():
        differs = (embedding(ids).to(seen.embeddings) != seen.embeddings).any(-1)
    if seen.image_places is not None:
        differs = differs | seen.image_places
    ends = _block_ends(seen, len(ids), ids.shape[1], type(model).__name__)
    features = _features(seen, ids.shape)
    digests = Digests(model, ids, differs, given)
    made = []
    for row in range(len(ids)):
        kept = range(ids.shape[1]) if mask is None else mask[row].nonzero()[:, 0].tolist()
        first, stop = kept[0], kept[-1] + 1
        if stop - first != len(kept):
            raise InvalidArgument(f"row {row} of attention_mask has a gap: pad on one side")
        spans = [
            Span(
                start - first,
                seen.embeddings[row, start:end],
                digest=digests.of(row, start, end),
                bidirectional=ends[row][start] > start + 1,
                deepstack=[x[row, start:end] for x in features],
            )
            for start, end in _runs(differs[row].tolist(), ends[row], first, stop)
        ]
        positions = _positions(seen.positions, row, first, stop)
        made.append(Prompt(ids[row, first:stop].tolist(), spans, positions))
    return made


def _runs(
    differs: Sequence[bool], ends: Sequence[int], first: int, stop: int
) -> list[tuple[int, int]]:
    """Neighbouring tokens that are no text of their own, and what sees each other with them: one
    run where they do, or where none of them does."""
    marks = [i for i in range(first, stop) if differs[i] or ends[i] > i + 1 or ends[i - 1] > i > 0]
    cuts = [
        0,
        *(
            n + 1
            for n, (a, b) in enumerate(pairwise(marks))
            if b > a + 1 or (ends[a] == b and (ends[a - 1] == b or ends[b] > b + 1))
        ),
        len(marks),
    ]
    return [(marks[a], marks[b - 1] + 1) for a, b in pairwise(cuts) if b > a]


def _block_ends(seen: Handed, rows: int, n: int, kind: str) -> list[list[int]]:
    """For each token the place behind the last one that it sees.

    A block of tokens that see each other is found by neighbours; then it is asked whether the
    masks say just that, of every token about the farther ones of its block and those behind it.
    """
    place = torch.arange(n).expand(rows, n)
    if not seen.sees or n < 2:
        return (place + 1).tolist()
    which = torch.arange(rows)[:, None]
    ahead = _sees_alike(seen, which, place[:, :-1], place[:, 1:], kind)
    is_last = torch.cat([~ahead, torch.ones(rows, 1, dtype=torch.bool)], dim=1)
    ends = torch.where(is_last, place + 1, n).flip(-1).cummin(-1).values.flip(-1)
    for other in (place + 2, ends - 1, ends, (place + ends) // 2, (ends + n - 1) // 2):
        keys = other.clamp(max=n - 1)
        told = _sees_alike(seen, which, place, keys, kind) | (keys <= place)
        if not torch.equal(told, keys < torch.maximum(ends, place + 1)):
            raise UnsupportedModel(
                f"{kind} has image tokens see more or less than each other: this is not supported"
            )
    if bool((ends[:, :-1] > n - 1).any()):
        raise UnsupportedModel(
            f"{kind} reads its whole prompt in both directions, question included: this is not "
            "supported"
        )
    found: list[list[int]] = ends.tolist()
    return found


def _sees_alike(seen: Handed, rows: Tensor, q: Tensor, kv: Tensor, kind: str) -> Tensor:
    """Whether queries see keys behind them, in which all kinds of layers must agree."""
    device = seen.embeddings.device
    told = [
        sees(*(x.to(device) for x in (rows, q, kv))).expand(q.shape).cpu() & (kv > q)
        for sees in seen.sees
    ]
    if any(not torch.equal(told[0], other) for other in told[1:]):
        raise UnsupportedModel(f"layers of {kind} see images differently: this is not supported")
    return told[0]


def _features(seen: Handed, shape: Sequence[int]) -> list[Tensor]:
    """What is added behind the first layers, `[B, n, hidden]` each."""
    if not seen.deepstack:
        return []
    assert seen.image_places is not None
    made = []
    for features in seen.deepstack:
        whole = features.new_zeros(*shape, features.shape[-1])
        whole[seen.image_places] = features
        made.append(whole)
    return made


def _positions(positions: Tensor | None, row: int, first: int, stop: int) -> Tensor | None:
    """Those of a row, `[D, n]` or `[n]`; in front of three dimensions may stand the places."""
    if positions is None:
        return None
    if positions.dim() == 2:
        return positions[min(row, len(positions) - 1), first:stop]
    of_row = positions[-3:, min(row, positions.shape[1] - 1), first:stop]
    return of_row
