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
    needs_model: bool = False  # a drafter that runs draft_model=

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
    "cascade": Entry(
        "specdec.drafts.cascade:cascade",
        "the draft model, itself sped up by n-gram drafts: three levels",
        needs_model=True,
    ),
}

COMBINED = Entry("specdec.drafts.combined:Combined", "several drafters, named as in a+b")

VIEWS = {
    "full": Entry("specdec.view:FullView", "every key of the context: the target's own law"),
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
