"""From a request to rows: each with its own law, noise and end."""

from __future__ import annotations

import logging

from specdec import processors
from specdec.detokenizer import Detokenizer
from specdec.noise import Noise
from specdec.request import Request
from specdec.row import Row
from specdec.sampler import Sampler
from specdec.stopping import Stopper
from specdec.target import Target

log = logging.getLogger("specdec")


def make_row(target: Target, request: Request, seed: int, prompt: int, sample: int) -> Row:
    """The row of one sample of one prompt, with processors of its own."""
    params, tokens = request.params, list(request.prompts[prompt])
    if request.processors is not None:
        chain = list(request.processors[prompt])
    else:
        chain = processors.build(
            params, len(tokens), request.eos_token_ids, target.vocab_size, target.device
        )
    index = prompt * params.num_return_sequences + sample
    if request.sample_indices is not None:
        sample = request.sample_indices[prompt]
    sampler = Sampler(
        [processors.fork(p) for p in chain],
        params.samples,
        Noise(seed, sample),
        request.acceptance,
        request.before[prompt] if request.before is not None else (),
    )
    wanted = len(tokens) + params.max_new_tokens
    room = min(wanted, target.max_positions)
    if room < wanted:
        log.warning(
            "prompt %d of %d tokens: %d of max_new_tokens=%d fit the model's %d positions",
            prompt, len(tokens), room - len(tokens), params.max_new_tokens, room,
        )  # fmt: skip
    return Row(index, prompt, tokens, len(tokens), room, sampler, stable=len(tokens))


def make_stopper(target: Target, request: Request, row: Row) -> Stopper:
    """What ends the row's text."""
    return Stopper(
        row,
        request.eos_token_ids,
        request.params.stop_list,
        request.params.stopping_criteria or (),
        Detokenizer(request.tokenizer, row.tokens),
        target.device,
    )
