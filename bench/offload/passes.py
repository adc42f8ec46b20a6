"""Passes over saved text by their width, timed in turns."""

from __future__ import annotations

import statistics
from time import perf_counter

from specdec.decoding.cached_model import CachedModel
from specdec.engine import Engine
from specdec.forward.full_view import FullView
from specdec.offload.saved_prompt import SavedPrompt
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

WIDTHS = (1, 4, 8, 16, 32, 64)


def passes(engine: Engine, saved: SavedPrompt, repeats: int) -> dict[str, float]:
    """Median seconds of passes behind a saved prompt of ids alone, by nodes, which take turns."""
    tokens = list(saved.tokens)
    row = Row(0, 0, tokens, len(tokens), len(tokens) + 2, Sampler([], False, Noise(0)),
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
