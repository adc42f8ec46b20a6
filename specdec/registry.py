"""The tables of what can be named: an extension is one new file and one line here.

Rooms above the core are named as dotted strings and imported when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from specdec.errors import InvalidArgument, unknown_name


@dataclass(frozen=True)
class Entry:
    """Where something lives (`module:attribute`) and what it is, in one line."""

    path: str
    summary: str
    needs_model: bool = False  # a drafter that cannot do without draft_model=
    takes_model: bool = False  # a drafter that can do with or without it
    own_format: bool = False  # its draft_model is no causal LM, and it loads that by itself

    def load(self) -> Any:
        module, attribute = self.path.split(":")
        return getattr(import_module(module), attribute)


DRAFTERS = {
    "none": Entry("specdec.drafts.none:NoDrafter", "plain decoding, one token a pass"),
    "ngram": Entry(
        "specdec.drafts.ngram:NGramDrafter",
        "continuations of earlier occurrences of the last tokens, from a suffix automaton",
    ),
    "model": Entry(
        "specdec.drafts.model:ModelDrafter",
        "a smaller causal LM with the same token ids (draft_model=), as a chain or a tree",
        needs_model=True,
    ),
    "longspec": Entry(
        "specdec.drafts.longspec:LongSpec",
        "a trained block that reads the target's own KV, in constant memory (LongSpec)",
        takes_model=True,
        own_format=True,
    ),
    "cascade": Entry(
        "specdec.drafts.cascade:cascade",
        "the draft model, itself sped up by n-gram drafts: three levels",
        needs_model=True,
    ),
    "triforce": Entry(
        "specdec.drafts.triforce:triforce",
        "three levels: n-gram or draft_model, the target on retrieved chunks, the full target",
        takes_model=True,
    ),
    "streaming": Entry(
        "specdec.drafts.self_draft:streaming",
        "the target itself, on sinks and a window of recent tokens (StreamingLLM)",
    ),
    "triforce-chunks": Entry(
        "specdec.drafts.self_draft:triforce_chunks",
        "the target itself, on chunks of 8 by their mean key (TriForce)",
    ),
    "quest": Entry(
        "specdec.drafts.self_draft:quest",
        "the target itself, on pages of 16 by a bound on their logits (Quest)",
    ),
    "double-sparsity": Entry(
        "specdec.drafts.self_draft:double_sparsity",
        "the target itself, on tokens by a few label channels (Double Sparsity)",
    ),
    "tidal": Entry(
        "specdec.drafts.self_draft:tidal",
        "the target itself, on exact top tokens of anchor layers, shared by others (TidalDecode)",
    ),
    "snapkv": Entry(
        "specdec.drafts.self_draft:snapkv",
        "the target itself, on tokens that the prompt's last queries vote for, once (SnapKV)",
    ),
    "verified": Entry(
        "specdec.drafts.self_draft:verified",
        "the target itself, on pages by their mass in the last verification, which reads all",
    ),
    "oracle": Entry(
        "specdec.drafts.self_draft:oracle",
        "the target itself, on exact top tokens of every layer: to measure the others against",
    ),
}

COMBINED = Entry("specdec.drafts.combined:Combined", "several drafters, named as in a+b")

VIEWS = {
    "full": Entry("specdec.view:full", "every key of the context: the target's own law"),
    "streaming": Entry(
        "specdec.sparse.presets:streaming", "sinks and a window of recent tokens (StreamingLLM)"
    ),
    "triforce-chunks": Entry(
        "specdec.sparse.presets:triforce_chunks", "chunks of 8 by their mean key (TriForce)"
    ),
    "quest": Entry(
        "specdec.sparse.presets:quest", "pages of 16 by a bound on their logits (Quest)"
    ),
    "double-sparsity": Entry(
        "specdec.sparse.presets:double_sparsity", "tokens by a few label channels (Double Sparsity)"
    ),
    "tidal": Entry(
        "specdec.sparse.presets:tidal",
        "exact top tokens of a few anchor layers, shared by the others (TidalDecode)",
    ),
    "snapkv": Entry(
        "specdec.sparse.presets:snapkv",
        "tokens that the prompt's last queries vote for, once (SnapKV)",
    ),
    "verified": Entry(
        "specdec.sparse.presets:verified",
        "pages by their mass in the last verification, which reads everything anyway",
    ),
    "oracle": Entry(
        "specdec.sparse.presets:oracle",
        "exact top tokens of every layer: to measure the others against",
    ),
}

ACCEPTANCE = {
    "coupled": Entry(
        "specdec.verify:walk",
        "same seed, same text, whichever drafter runs: target and drafter share their noise",
    ),
    "rejection": Entry(
        "specdec.verify:traversal",
        "most tokens per pass when sampling: block and traversal verification",
    ),
}

BENCH = {
    "run": Entry("specdec.bench.suite:run", "measures"),
    "markdown": Entry("specdec.bench.report:markdown", "a measurement as a table"),
    "profile": Entry("specdec.bench.view_profile:profile", "compares sparse views on a text"),
    "anchors": Entry("specdec.bench.anchors:find_anchors", "calibrates the anchors of a view"),
    "plot": Entry("specdec.bench.plots:plot_profile", "a profile as a picture"),
    "facts": Entry("specdec.bench.machine:facts", "what ran where"),
    "manual": Entry("specdec.bench.workloads:manual", "a long text that is always there"),
}

TRAINING = {
    "train": Entry("specdec.drafts.training.run:train", "distils a target into a drafter"),
    "measure": Entry("specdec.drafts.training.measure:measure", "what a drafter foresees"),
}


def drafter_names(spec: str) -> list[str]:
    """The drafters of a name such as "ngram" or the combination "ngram+model", all known."""
    names = spec.split("+")
    for name in names:
        if name not in DRAFTERS:
            raise unknown_name("drafter", name, DRAFTERS)
    if len(names) > 1 and ("none" in names or len(set(names)) < len(names)):
        raise InvalidArgument(f"drafter {spec!r} combines a drafter with itself or with 'none'")
    return names
