"""Shared: prompts that begin alike, read and kept once, against the same prompts apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from specdec import Engine, machine
from specdec.bench.workloads import manual
from specdec.errors import InvalidArgument

TOPICS = ("the sea", "iron", "bread", "glass", "salt", "wool", "maps", "clocks")

Progress = Callable[[int, int], None]


def profile_shared(
    engine: Engine,
    context: int,
    rows: Sequence[int],
    drafter: str,
    max_new_tokens: int,
    repeats: int,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Seconds of reading, tokens per second of decoding and bytes of KV, for each number of rows.

    All prompts begin with the same `context` tokens and end with questions of their own. Shared and
    apart take turns; figures are medians. `texts_equal`: whether both gave the same ids.
    """
    if engine.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and prompts need one")
    common = engine.tokenizer(manual()[: 8 * context])["input_ids"][:context]
    if len(common) + 64 + max_new_tokens > engine.target.max_positions:
        raise InvalidArgument(
            f"--context {context} and {max_new_tokens} new tokens do not fit the model's "
            f"{engine.target.max_positions} positions: give a shorter one"
        )
    engine.generate(common[:128], drafter=drafter, max_new_tokens=4)  # kernels are ready
    cells, done = [], 0
    for count in rows:
        prompts = [
            common + engine.tokenizer(f" {i}. What do we know of {TOPICS[i % 8]}?")["input_ids"]
            for i in range(count)
        ]
        turns: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        texts: dict[bool, list[list[int]]] = {}
        for _ in range(repeats):
            for shares in (True, False):
                turn, texts[shares] = _turn(engine, prompts, drafter, max_new_tokens, shares)
                turns[shares].append(turn)
                done += 1
                progress(done, 2 * repeats * len(rows))
        cell: dict[str, Any] = {"rows": count, "texts_equal": texts[True] == texts[False]}
        for name, shares in (("shared", True), ("apart", False)):
            cell[name] = {key: median(t[key] for t in turns[shares]) for key in turns[shares][0]}
        cells.append(cell)
    return {
        "machine": machine.facts(),
        "model": engine.name,
        "weights": str(engine.packing),
        "context": context,
        "drafter": drafter,
        "new_tokens": max_new_tokens,
        "repeats": repeats,
        "cells": cells,
    }


def _turn(
    engine: Engine, prompts: list[list[int]], drafter: str, new: int, shares: bool
) -> tuple[dict[str, float], list[list[int]]]:
    stream = engine.stream(
        prompts, drafter=drafter, max_new_tokens=new, eos_token_id=[], share_prefixes=shares
    )
    with stream:
        next(stream)
        store = stream.model.store
        found = stream.run()
    seconds = max(g.stats.decode_s for g in found)
    figures = {
        "read_s": found[0].stats.prefill_s,
        "tokens_per_s": sum(len(g.token_ids) for g in found) / seconds,
        "kv_bytes": float(store.nbytes),
    }
    return figures, [g.token_ids for g in found]
