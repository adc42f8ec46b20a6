"""DraftOptions: how much and with what a drafter drafts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from specdec.errors import InvalidArgument

# Spellings of other libraries; all of them count draft tokens without the bonus token.
SYNONYMS = {
    "num_speculative_tokens": "num_draft_tokens",
    "num_assistant_tokens": "num_draft_tokens",
    "prompt_lookup_num_tokens": "num_draft_tokens",
    "max_draft_len": "num_draft_tokens",
    "assistant_model": "draft_model",
    "assistant_confidence_threshold": "min_draft_prob",
    "max_matching_ngram_size": "max_ngram",
}


@dataclass(frozen=True)
class DraftOptions:
    """Settings of a drafter; None leaves the choice to the drafter.

    num_draft_tokens: depth of the deepest draft token of a round (without the bonus token).
    draft_width: nodes per level of the tree; 1 drafts a chain.
    draft_tree: nodes of each level of the tree instead, as "4-16-16-16-16" or a tuple.
    draft_nodes: nodes of the tree at most, its root included: those of the most probable paths.
    draft_model: a folder, hub id, .gguf file, loaded transformers model, or "demo".
    min_draft_prob: stop drafting below this probability of the path under the draft model.
    min_ngram, max_ngram: shortest and longest match the n-gram drafter acts on.
    budget: tokens of the context that each layer of a sparse view reads.
    sink, recent: first and last tokens that it always reads; refresh: when it chooses anew ("pass",
        "round", "falling", "prompt" or a number of rounds).
    draft_layers: a drafter that runs the target itself leaves it after so many layers.
    anchors, dense: layers that choose for those above them, and layers that read everything.
    """

    num_draft_tokens: int | None = None
    draft_width: int | None = None
    draft_tree: Any = None
    draft_nodes: int | None = None
    draft_model: Any = None
    min_draft_prob: float = 0.0
    min_ngram: int = 2
    max_ngram: int = 32
    budget: int | None = None
    sink: int | None = None
    recent: int | None = None
    refresh: str | int | None = None
    draft_layers: int | None = None
    anchors: tuple[int, ...] | None = None
    dense: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        counts = ("num_draft_tokens", "draft_width", "draft_nodes")
        for name in (*counts, "min_ngram", "max_ngram", "draft_layers"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidArgument(f"{name}={value!r} is not a whole number")
            if value is not None and not 1 <= value <= 255:
                raise InvalidArgument(f"{name}={value} is out of range: give 1 to 255")
        if self.draft_tree is not None:
            object.__setattr__(self, "draft_tree", _levels(self.draft_tree))
            if self.draft_width is not None:
                raise InvalidArgument("draft_width and draft_tree exclude each other: give one")
        for name in ("budget", "sink", "recent"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise InvalidArgument(f"{name}={value!r} is not a number of tokens")
        for name in ("anchors", "dense"):
            value = getattr(self, name)
            if value is not None and not all(isinstance(layer, int) for layer in value):
                raise InvalidArgument(f"{name}={value!r} are not layer numbers")
        if not 0.0 <= self.min_draft_prob < 1.0:
            raise InvalidArgument(f"min_draft_prob={self.min_draft_prob} is outside [0, 1)")
        if self.min_ngram > self.max_ngram:
            raise InvalidArgument(f"min_ngram={self.min_ngram} exceeds max_ngram={self.max_ngram}")


def _levels(tree: Any) -> tuple[int, ...]:
    """Nodes per level, from "4-16-16" or a sequence of numbers."""
    parts = tree.split("-") if isinstance(tree, str) else tree
    try:
        levels = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        levels = ()
    if not levels or not all(1 <= width <= 255 for width in levels) or sum(levels) > 255:
        raise InvalidArgument(
            f"draft_tree={tree!r}: give the nodes of each level, such as 4-16-16-16-16, at most 255"
        )
    return levels


NAMES = frozenset(f.name for f in fields(DraftOptions))

# Which of them a kind of drafter or view has a use for.
_TREE = frozenset({"num_draft_tokens", "draft_width"})
_NGRAM = _TREE | {"min_ngram", "max_ngram"}
_GROWN = frozenset({"draft_tree", "draft_nodes"})
_MODEL = _TREE | _GROWN | {"draft_model", "min_draft_prob"}
VIEW_OPTIONS = frozenset({"budget", "sink", "recent", "refresh", "anchors", "dense"})
USED = {
    "none": frozenset[str](),
    "ngram": _NGRAM,
    "model": _MODEL,
    "longspec": _MODEL,
    "cascade": _NGRAM | {"draft_model"},
    "triforce": _NGRAM | {"draft_model", "min_draft_prob"} | VIEW_OPTIONS,
}
SELF_DRAFT = _TREE | _GROWN | {"min_draft_prob", "draft_layers"} | VIEW_OPTIONS
