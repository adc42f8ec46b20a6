"""Calibration: the costs of a model's passes measured on purpose, once for each kind of machine."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from specdec import kernels
from specdec._version import __version__
from specdec.cache.store import KVStore
from specdec.cachedir import cache_root
from specdec.control.costs import PassCosts, open_costs
from specdec.forward.forward_pass import View
from specdec.model.target import Target
from specdec.ranks import agreed
from specdec.sampling.sequence import Row
from specdec.sampling.tree import Law, TokenTree

log = logging.getLogger("specdec")

WIDTHS = (1, 4, 16, 2, 8, 32, 64)  # nodes per row; the first ones say most if time runs out
# Where a pass waits for what it fetches two widths take all the time that there is: between 1 and 4
# nodes lies next to nothing but noise, which a line would carry on to 64.
FAR_WIDTHS = (1, 32, 8, 64, 16, 4, 2)
REPEATS = 2  # after one pass that warms up; the faster counts
TIME_LIMIT = 1.0  # seconds after which no further width is begun


class Passes(Protocol):
    """A model with the KV of some rows, whose passes are measured: `CachedModel`."""

    target: Target
    view: View

    store: KVStore

    @property
    def costs(self) -> PassCosts: ...

    def forward(self, rows: Sequence[Row], trees: Sequence[TokenTree]) -> Sequence[Tensor]: ...


def costs_of(target: Target, places: str = "") -> PassCosts:
    """The costs of this model on this machine, as far as they are known, with its KV in `places`
    (`KVStore.places`)."""
    costs = open_costs(cache_root() / "costs", {**describe(target), "kv": places})
    known = {name: value for name, value in vars(costs).items() if name != "file"}
    vars(costs).update(agreed(target.is_parallel, known))  # each rank may have read another file
    return costs


def calibrate(model: Passes, rows: Sequence[Row]) -> float:
    """Measure passes of `model` over its rows as they stand, unless that is known; seconds taken.

    Runs a few passes whose tokens are never committed, so the model's text and KV are what they
    were. Only for a view that reads everything: a sparse one may count passes; and not of rows that
    fill all positions.
    """
    rows = [row for row in rows if len(row.tokens) < model.target.max_positions]
    keys = sum(len(row.tokens) for row in rows)
    if not rows or not model.view.lossless or model.costs.measured_near(keys):
        return 0.0
    clock = model.target.clock
    start = clock()
    measured: dict[int, float] = {}
    for width in FAR_WIDTHS if model.store.places else WIDTHS:
        if len(measured) > 1 and clock() - start > TIME_LIMIT:
            break
        trees = [_star(row.tokens[-1], width) for row in rows]
        times = [_timed(model, rows, trees) for _ in range(1 + REPEATS)]
        measured[width * len(rows)] = min(times[1:])
    model.costs.learn(keys, settled(measured))
    model.costs.save()
    taken = clock() - start
    log.debug("measured passes at %d tokens of context in %.1f s", keys, taken)
    return taken


def settled(measured: dict[int, float]) -> dict[int, float]:
    """The times by nodes, with no pass dearer than a wider one: then it was only disturbed."""
    return {nodes: min(s for n, s in measured.items() if n >= nodes) for nodes in measured}


def describe(target: Target) -> dict[str, Any]:
    """What the cost of a pass depends on: model, weights, device and the code that runs."""
    config = target.model.config.get_text_config().to_dict()
    cuda = target.device.type == "cuda"
    return {
        "config": {k: v for k, v in sorted(config.items()) if not k.startswith("_")},
        "layers": target.num_layers,
        "dtype": str(target.dtype),
        "weights": str(target.packing),
        "device": torch.cuda.get_device_name(target.device) if cuda else platform.processor(),
        "machine": platform.node(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "specdec": __version__,
        "code": _newest_code(),
    }


def _star(token: int, nodes: int) -> TokenTree:
    """A tree of so many nodes, one level deep, so that it needs one position more than the text."""
    above = [-1, *[0] * (nodes - 1)]
    return TokenTree([token] * nodes, above, [Law.POINT] * nodes, [""] * nodes)


def _timed(model: Passes, rows: Sequence[Row], trees: Sequence[TokenTree]) -> float:
    start = model.target.clock()
    for logits in model.forward(rows, trees):
        logits.argmax(-1).tolist()  # waits for a GPU
    return model.target.clock() - start


@cache
def _newest_code() -> int:
    """When our own code last changed: a checkout changes without a new version."""
    rooms = [Path(__file__).parents[1], *map(Path, kernels.__path__)]
    files = [file for room in rooms for file in room.rglob("*.py") if file.is_file()]
    return max(int(file.stat().st_mtime) for file in files)
