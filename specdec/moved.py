"""Modules under the names of the last release: they still import, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# old -> new, both below `specdec`
MOVED = {
    "acceptance": "control.acceptance",
    "attention": "forward.attention",
    "attention_op": "forward.attention_op",
    "cached_model": "decoding.cached_model",
    "calibration": "control.calibration",
    "controller": "control.controller",
    "costs": "control.costs",
    "demo": "loading.demo",
    "detokenizer": "decoding.detokenizer",
    "device_verify": "sampling.device_verify",
    "draft_weights": "model.draft_weights",
    "drafter": "decoding.drafter",
    "drafting": "decoding.drafting",
    "early_exit": "model.early_exit",
    "forward_pass": "forward.forward_pass",
    "fused_head": "model.fused_head",
    "fused_layer": "model.fused_layer",
    "fused_run": "model.fused_run",
    "generation": "decoding.stream",
    "gguf_blocks": "loading.gguf.blocks",
    "graphs": "forward.cuda_graphs",
    "held": "cache.cached_tokens",
    "level_reads": "forward.host_reads",
    "loader": "loading.loader",
    "noise": "sampling.noise",
    "offload.kv_shape": "cache.kv_shape",
    "options": "decoding.options",
    "output": "decoding.output",
    "packing": "model.packing",
    "params": "sampling.params",
    "pass_ahead": "forward.pass_ahead",
    "pass_inputs": "forward.static_inputs",
    "processors": "sampling.processors",
    "prompt": "decoding.prompt",
    "recorder": "forward.query_recorder",
    "request": "decoding.request",
    "row": "sampling.sequence",
    "rows": "decoding.setup",
    "sampler": "sampling.sampler",
    "sizes": "control.sizes",
    "speculative": "decoding.speculative",
    "stats": "decoding.stats",
    "stopping": "decoding.stopping",
    "store": "cache.store",
    "support": "model.support",
    "target": "model.target",
    "tree": "sampling.tree",
    "verify": "sampling.verify",
    "view": "forward.full_view",
    "vocabulary": "sampling.vocabulary",
    "weights": "loading.checkpoint_files",
}


class Moved(MetaPathFinder):
    """Finds what has moved where it is now."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = MOVED.get(name.removeprefix("specdec."))
        if new is None or not name.startswith("specdec."):
            return None
        warnings.warn(
            f"{name} is specdec.{new} now; the old name works for one release",
            DeprecationWarning,
            stacklevel=2,
        )
        return ModuleSpec(name, _Alias(f"specdec.{new}"))


class _Alias(Loader):
    def __init__(self, new: str) -> None:
        self.new = new

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(self.new)


def install() -> None:
    """Look for old names, too, where no other module is found; doing so again changes nothing."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
