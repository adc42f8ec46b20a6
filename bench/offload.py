"""Decoding with keys and values behind a link: passes by width, and texts by drafter."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from specdec import machine
from specdec.decoding.cached_model import CachedModel
from specdec.engine import Engine
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.offload.kv_memory import KVMemory
from specdec.offload.plan import config_of
from specdec.offload.saved_prompt import SavedPrompt
from specdec.placement import resolve_device, resolve_dtype
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

WIDTHS = (1, 4, 8, 16, 32, 64)


def profile_offload(
    engine: Engine,
    tokens: list[int],
    context: int,
    rates: Sequence[float | None],
    drafters: Sequence[str],
    tier: str = "disk",
    new_tokens: int = 64,
    repeats: int = 3,
) -> dict[str, Any]:
    """Passes and texts behind `context` tokens whose older KV lies on `tier`, at each link rate.

    rates: bytes per second that the link is slowed to; None for as fast as it is. The first entry
    of the result has everything on the device. Each `rate` has `passes` (median seconds by
    nodes, which take turns), `link` (bytes per second reached), and `texts` (tokens per second,
    acceptance length and rounds by proposer of plain decoding and each drafter, in turns). Raises
    InvalidArgument where the text is too short.
    """
    if len(tokens) < context:
        raise InvalidArgument(f"context={context}: the text has {len(tokens)} tokens")
    tokens = tokens[:context]
    before = engine.target.kv_memory
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        saved = engine.save_prompt(tokens, Path(folder) / "prompt")
        settings: list[tuple[str, float | None]] = [("device", None), *((tier, r) for r in rates)]
        try:
            for place, rate in settings:
                engine.target.kv_memory = KVMemory(place, link=rate)
                cells.append(_cell(engine, saved, tokens, drafters, new_tokens, repeats))
                cells[-1] = {"tier": place, "rate": rate, **cells[-1]}
        finally:
            engine.target.kv_memory = before
    return {
        "machine": machine.facts(),
        "model": engine.name,
        "weights": str(engine.packing),
        "context": context,
        "new_tokens": new_tokens,
        "cells": cells,
    }


def random_engine(model: str, dtype: str, device: str) -> Engine:
    """An engine of a model's shape (see `plan.config_of`) with random weights, to time passes of.

    Raises WeightsError where the configuration cannot be had.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place) or torch.bfloat16
    config = config_of(model)
    with torch.device(place):
        made = AutoModelForCausalLM.from_config(config, dtype=kind)
    return Engine(made.requires_grad_(False), name=f"{model}, random weights")


def _cell(
    engine: Engine,
    saved: SavedPrompt,
    tokens: list[int],
    drafters: Sequence[str],
    new_tokens: int,
    repeats: int,
) -> dict[str, Any]:
    memory = engine.kv_memory
    passes = _passes(engine, saved, tokens, repeats)
    link = memory.pace.moved / memory.pace.seconds if memory.pace.seconds else None
    texts: dict[str, dict[str, Any]] = {}
    plain: list[int] = []
    for name in ("none", *drafters) if new_tokens else ():
        out = engine.generate(
            tokens, drafter=name, max_new_tokens=new_tokens, saved_prompt=saved, eos_token_id=[]
        )
        assert not isinstance(out, list)
        plain = plain or out.token_ids
        texts[name] = {
            "tokens_per_s": out.stats.tokens_per_s,
            "acceptance_length": out.stats.mean_acceptance_length,
            "rounds": dict(out.stats.choices.most_common()),
            "equal": out.token_ids == plain,
        }
    return {"link": link, "device_bytes": memory.device.peak, "passes": passes, "texts": texts}


def _passes(
    engine: Engine, saved: SavedPrompt, tokens: list[int], repeats: int
) -> dict[str, float]:
    """Median seconds of passes by nodes, in turns."""
    row = Row(0, 0, list(tokens), len(tokens), len(tokens) + 2, Sampler([], False, Noise(0)),
              len(tokens))  # fmt: skip
    model = CachedModel(engine.target, FullView(), [row], saved=saved)
    times: dict[int, list[float]] = {width: [] for width in WIDTHS}
    for _ in range(1 + repeats):
        for width in WIDTHS:
            tree = TokenTree.chain(row.tokens[-1], tokens[1:width])
            start = perf_counter()
            (logits,) = model.forward([row], [tree])
            logits.argmax(-1).tolist()  # waits for a GPU
            times[width].append(perf_counter() - start)
    return {str(width): statistics.median(seconds[1:]) for width, seconds in times.items()}
