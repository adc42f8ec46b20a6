"""What images cost: the tower, the same image again, the prompt, plain steps and wider passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from specdec import machine
from specdec.bench.image_shapes import asked, random_images_model
from specdec.decoding.cached_model import CachedModel
from specdec.engine import Engine
from specdec.forward.full_view import FullView
from specdec.sampling.noise import Noise
from specdec.sampling.prompt import Prompt
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.vision.encoder_cache import EncoderCache
from specdec.vision.reading import read_processed

QUESTION = 32  # tokens behind the images


def profile_images(
    name: str,
    layers: int | None,
    dtype: torch.dtype,
    images: Sequence[int],
    widths: Sequence[int],
    repeats: int,
) -> dict[str, Any]:
    """Of a model of a known shape with random weights (`image_shapes`), for each number of images.

    Milliseconds, medians of `repeats`: `tower` makes embeddings of all images; `again` does so when
    they were seen before; `read` reads the prompt up to its last token; `passes` are over so many
    nodes behind it, one in turn, the first a plain step.
    """
    model, shape = random_images_model(name, layers, dtype)
    engine = Engine(model)
    cells = [
        {"images": n, **_cell(engine, asked(shape, model, n, QUESTION), widths, repeats)}
        for n in images
    ]
    return {
        "machine": machine.facts(),
        "model": name,
        "layers": engine.target.num_layers,
        "of_layers": shape.layers,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": str(engine.packing),
        "repeats": repeats,
        "cells": cells,
    }


def _cell(
    engine: Engine, given: dict[str, Any], widths: Sequence[int], repeats: int
) -> dict[str, Any]:
    tower: list[float] = []
    again: list[float] = []
    read: list[float] = []
    for _ in range(repeats):
        cache = EncoderCache(limit=1 << 40)
        look = partial(read_processed, given, engine.model, cache)
        for times in (tower, again):
            taken, prompts = _timed(look)
            times.append(taken)
        taken, (held, row) = _timed(partial(_read, engine, prompts[0], repeats))
        read.append(taken)
    return {
        "tokens": row.num_prompt_tokens,
        "tower": statistics.median(tower),
        "again": statistics.median(again),
        "read": statistics.median(read),
        "passes": _passes(held, row, widths, repeats),
    }


def _read(engine: Engine, prompt: Prompt, more: int) -> tuple[CachedModel, Row]:
    n = len(prompt.ids)
    row = Row(0, 0, list(prompt.ids), n, n + more + 1, Sampler([], False, Noise(0)), n)
    row.content = prompt
    return CachedModel(engine.target, FullView(), [row]), row


def _passes(
    held: CachedModel, row: Row, widths: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Passes of all widths in turn, behind a text that grows by a token a turn."""
    times: dict[int, list[float]] = {width: [] for width in widths}
    for _ in range(repeats):
        row.tokens.append(5)
        row.num_final = len(row.tokens)
        for width, found in times.items():
            tree = TokenTree.chain(row.tokens[-1], list(range(20, 19 + width)))
            held.forward([row], [tree], True)  # catches up with the text
            found.append(_timed(partial(held.forward, [row], [tree], True))[0])
    return [{"nodes": n, "total": statistics.median(found)} for n, found in times.items()]


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what came of it."""
    start = time.perf_counter()
    made = run()
    return 1e3 * (time.perf_counter() - start), made
