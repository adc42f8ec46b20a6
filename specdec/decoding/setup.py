"""From a request to rows: each with its own law, noise and end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from transformers import MaxTimeCriteria

from specdec.decoding.detokenizer import Detokenizer
from specdec.decoding.request import Request
from specdec.decoding.stop_strings import StopStrings
from specdec.decoding.stopping import Stopper
from specdec.model.target import Target
from specdec.sampling import processors
from specdec.sampling.forking import fork
from specdec.sampling.noise import Noise
from specdec.sampling.prompt import Prompt
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row

log = logging.getLogger("specdec")


def make_rows(target: Target, request: Request, seed: int, before: Sequence[Row] = ()) -> list[Row]:
    """The rows of all samples of all prompts; those with equal prompts are numbered, which tells
    their noise apart. before: rows of other requests, behind which these are counted."""
    rows: list[Row] = []
    is_alone = len(request.prompts) * request.params.num_return_sequences == 1
    seen: Counter[tuple[int, ...]] = Counter()
    first = 1 + max((row.prompt_index for row in before), default=-1)
    for prompt, ids in enumerate(request.prompts):
        content = _content(request, prompt)
        keys = tuple(ids if content is None else content.keys)
        for _ in range(request.params.num_return_sequences):
            noise = Noise.of(seed, keys, seen[keys])
            seen[keys] += 1
            row = _make_row(target, request, prompt, len(before) + len(rows), noise, is_alone)
            row.prompt_index += first
            rows.append(row)
    return rows


def _make_row(
    target: Target, request: Request, prompt: int, index: int, noise: Noise, is_alone: bool
) -> Row:
    """One row, with processors of its own: the caller's where there is no other."""
    params, tokens = request.params, list(request.prompts[prompt])
    if request.processors is not None:
        chain = list(request.processors[prompt])
    else:
        chain = processors.build(
            params,
            len(tokens),
            request.eos_token_ids,
            target.vocab_size,
            target.device,
            index,
            request.stop_token_ids,
        )
    sampler = Sampler(
        chain if is_alone else [processors.own_copy(p) for p in chain],
        params.samples,
        noise,
        request.acceptance,
        request.before[prompt] if request.before is not None else (),
    )
    content = _content(request, prompt)
    wanted = len(tokens) + params.most_new_tokens(len(tokens))
    room = min(wanted, target.longest_text - (0 if content is None else content.offset))
    if room < wanted:
        log.warning(
            "prompt %d of %d tokens: %d of %d new tokens fit the model's %d positions",
            prompt, len(tokens), room - len(tokens), wanted - len(tokens), target.max_positions,
        )  # fmt: skip
    return Row(
        index, prompt, tokens, len(tokens), room, sampler, num_final=len(tokens),
        behind=0 if request.before is None else max(map(len, request.prompts)) - len(tokens),
        content=content, ends=frozenset((*request.eos_token_ids, *request.stop_token_ids)),
    )  # fmt: skip


def _content(request: Request, prompt: int) -> Prompt | None:
    """What a prompt holds besides token ids."""
    return request.contents[prompt] if request.contents else None


def make_stopper(target: Target, request: Request, row: Row) -> Stopper:
    """What ends the row's text; its time, if that is bounded, begins now."""
    criteria = list(request.params.stopping_criteria or ())
    if len(request.prompts) * request.params.num_return_sequences > 1:
        criteria = [fork(criterion) for criterion in criteria]
    if request.params.max_time is not None:
        criteria.append(MaxTimeCriteria(request.params.max_time))
    shown = Detokenizer(request.tokenizer, row.tokens)
    strings = StopStrings(request.params.stop_list, request.tokenizer, row.tokens, shown)
    least = request.params.min_tokens or 0
    return Stopper(row, sorted(row.ends), strings, criteria, target.device, least)
