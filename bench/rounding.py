"""Rounding: a quantised file with activations in 8 bits against the same file in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from specdec import Engine, machine
from specdec.errors import InvalidArgument
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView

CHUNK = 256  # tokens whose logits are looked at together
PROMPT = 100  # tokens before a greedy text

Progress = Callable[[int, int], None]


def profile_rounding(
    rounded: Engine,
    exact: Engine,
    ids: list[int],
    tokens: int,
    texts: int,
    max_new_tokens: int,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """How far an engine's rounded activations take it from the same weights in float32.

    Of the first `tokens` tokens of a text the perplexity of both, how often their most
    likely next token is the same, and the mean divergence KL(exact || rounded) in nats; of `texts`
    greedy texts, behind parts of it, how many are the same to the end, and how many tokens the
    others have in common.
    Raises InvalidArgument where nothing is rounded, or the text is too short for the model.
    """
    if not rounded.target.is_rounded or exact.target.is_rounded:
        raise InvalidArgument(
            f"nothing is rounded in {rounded.name}: give a quantised GGUF, on a CPU with Numba"
        )
    most = min(len(ids), rounded.target.max_positions)
    if tokens > most:
        raise InvalidArgument(f"--tokens {tokens}: the model and the text allow {most}")
    total = tokens + texts
    loss = torch.zeros(2, dtype=torch.float64)
    same = divergence = 0.0
    at = 0
    for ours, theirs in zip(_laws(rounded, ids[:tokens]), _laws(exact, ids[:tokens]), strict=True):
        wanted = torch.tensor(ids[at + 1 : at + 1 + len(ours)])
        ours, theirs = ours[: len(wanted)], theirs[: len(wanted)]
        for i, law in enumerate((ours, theirs)):
            loss[i] -= law[torch.arange(len(wanted)), wanted].sum()
        same += float((ours.argmax(-1) == theirs.argmax(-1)).sum())
        divergence += float((theirs.exp() * (theirs - ours)).sum())
        at += len(wanted)
        progress(at, total)
    shared = []
    for i in range(texts):
        start = i * (len(ids) - PROMPT) // max(1, texts)
        prompt = ids[start : start + PROMPT]
        how: dict[str, Any] = {"drafter": "none", "max_new_tokens": max_new_tokens}
        how["eos_token_id"] = []
        both = [engine.stream(prompt, **how).run()[0].token_ids for engine in (rounded, exact)]
        shared.append(len(commonprefix(both)))
        progress(tokens + i + 1, total)
    parted = [count for count in shared if count < max_new_tokens]
    return {
        "machine": machine.facts(),
        "model": rounded.name,
        "weights": str(rounded.packing),
        "tokens": at,
        "perplexity": {"int8": math.exp(loss[0] / at), "float32": math.exp(loss[1] / at)},
        "same_argmax": same / at,
        "divergence": divergence / at,
        "texts": texts,
        "new_tokens": max_new_tokens,
        "texts_equal": len(shared) - len(parted),
        "tokens_until_parted": sum(parted) / len(parted) if parted else None,
    }


@torch.inference_mode()
def _laws(engine: Engine, ids: list[int]) -> Iterator[Tensor]:
    """Log-probabilities `float64[n, V]` of what follows each token of a text but the last one."""
    target = engine.target
    store = target.new_store(1, len(ids))
    for start in range(0, len(ids) - 1, CHUNK):
        part = ids[start : start + CHUNK]
        where = torch.arange(start, start + len(part))[None]
        logits = target.forward([part], ForwardPass(store, FullView(), [0], where))[0]
        store.commit(0, range(len(part)))
        yield logits[: len(ids) - 1 - start].double().log_softmax(-1)
