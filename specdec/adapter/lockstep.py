"""Lockstep: a batch whose processors or criteria may look at all rows at once, token by token.

What is written for `[B, L]` has to be asked as transformers asks it: with all rows, which are then
of one length. So nothing is drafted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.request import Request
from specdec.decoding.setup import make_rows
from specdec.decoding.stream import seed_of
from specdec.kernels.precision import wide
from specdec.model.target import Target
from specdec.sampling.processors import is_stateless
from specdec.sampling.scores import MODEL, check_kind, fault_of, nothing_allowed
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

# Criteria of transformers that judge each row by itself and keep nothing of it.
_BY_ROW = {
    transformers.MaxLengthCriteria, transformers.MaxTimeCriteria, transformers.EosTokenCriteria,
    transformers.StopStringCriteria,
}  # fmt: skip

Processor = Callable[..., Any]


def is_by_row(processors: Iterable[Any], criteria: Iterable[Any]) -> bool:
    """Whether rows can be asked about one by one: nothing looks at others or counts calls, and a
    row that has ended has an end token to be padded behind, or all end together. (Without one,
    transformers lets it run on until the last has ended.)"""
    criteria = list(criteria)
    if not all(map(is_stateless, processors)) or any(type(c) not in _BY_ROW for c in criteria):
        return False
    together = all(isinstance(c, transformers.MaxLengthCriteria) for c in criteria)
    return together or any(hasattr(c, "eos_token_id") for c in criteria)


@torch.inference_mode()
def generate(
    target: Target,
    request: Request,
    input_ids: Tensor,
    processors: Sequence[Processor],
    criteria: Sequence[Processor],
    pad_token_id: int,
) -> Tensor:
    """`input_ids[B, L]` and what follows, `int64[B, L + n]`, as transformers' own loop has it.

    A row that has ended is padded if some criterion knows end tokens, else it goes on until all
    have ended; processors and criteria see it all along.
    """
    rows = make_rows(target, request, seed_of(request) or 0)
    model = CachedModel(target, request.methods.view.view(target), rows)
    pads = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
    ids, going = input_ids, torch.ones(len(rows), dtype=torch.bool, device=input_ids.device)
    while bool(going.any()):
        logits = model.forward(rows, [TokenTree.root(row.tokens[-1]) for row in rows])
        scores = torch.cat(logits).to(input_ids.device, copy=True)
        scores = wide(scores)
        scores = _processed(processors, ids, scores, rows, going.tolist(), request)
        chosen = [_choose(row, row_scores) for row, row_scores in zip(rows, scores, strict=True)]
        tokens = torch.tensor(chosen, device=ids.device)
        if pads:
            tokens = tokens.where(going, pad_token_id)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.tokens.append(token)
            row.num_final, row.round = len(row.tokens), row.round + 1
        ids = torch.cat([ids, tokens[:, None]], dim=-1)
        for criterion in criteria:
            ended = torch.as_tensor(criterion(ids, None), device=ids.device)
            going = going & ~ended.expand(len(rows)).bool()
        going &= torch.tensor([len(row.tokens) < row.max_tokens for row in rows]).to(ids.device)
    return ids


def _processed(
    processors: Sequence[Processor],
    ids: Tensor,
    scores: Tensor,
    rows: Sequence[Row],
    going: Sequence[bool],
    request: Request,
) -> Tensor:
    """`scores[B, V]` through the processors, which see all rows. Raises NothingAllowed."""
    samples = request.params.samples
    faults = [fault_of(row, samples) for row in scores]
    sources: list[object] = [MODEL] * len(rows)
    for processor in processors:
        scores = check_kind(processor(ids, scores), scores, processor)
        found = [fault_of(row, samples) for row in scores]
        for i, (known, fault) in enumerate(zip(faults, found, strict=True)):
            if fault is not None and known is None:
                sources[i] = processor
        faults = found
    for row, fault, source, is_going in zip(rows, faults, sources, going, strict=True):
        if fault is not None and is_going:
            raise nothing_allowed(row.index, len(row.tokens), fault, source)
    return scores


def _choose(row: Row, scores: Tensor) -> int:
    """The best token by `scores[V]`, under the noise of its position if tokens are drawn."""
    if row.sampler.samples:
        scores = scores.double() + row.sampler.gumbel(row, 0, scores)
    return int(scores.argmax())
