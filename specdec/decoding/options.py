"""DraftOptions: how much and with what a drafter drafts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from specdec.errors import InvalidArgument
from specdec.plain import make_plain

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
    draft_weights: and reads a copy of its weights in "int8" or "int4" (on a CPU; the copy is made
        at the first call and kept).
    kv_bits, kv_group: bits (2, 4 or 8) of the keys and values that `kivi` reads, and how many
        tokens share the scale of a key's channel (32, 64 or 128).
    label_bits: bits (16, or 4) of the label channels that `double-sparsity` keeps.
    anchors, dense: layers that choose for those above them, and layers that read everything.
    channels: where the label channels of `double-sparsity` come from: "prompt", "text" (measured
        once on a text that is always there, and kept in the cache folder), or a file that
        `specdec profile --calibrate-channels` made.
    calibration: what was measured of the model for a method that goes by it: "auto" (comes with the
        package, or is measured at the first use and kept in the cache folder), or a file that
        `specdec calibrate` made. tokenizer: of the model, for that; no option of a call.
    looked_share: of the prompt's tokens, those that `mpcache` does not drop. by_output: whether
        `defensive` weighs values by what they add to a layer's output. window_task: whether
        `windowkv` shall "locate" something in a text or "aggregate" it. crush_share, crush_anchor:
        of `kvcrush`, how much goes to representatives, and how they are told apart. redundancy:
        how alike tokens are that `ems` merges. induction_heads, echo_heads: shares of heads that
        `razor` lets read all; streaming_heads: that `duo` does not. episodes, episode_tokens:
        topics and tokens of a piece of `epicache`. rank, outliers: of `gear`. key_share,
        value_share, latent_share, latent_bits, group_layers: of `cskv`, `xkv`, `x-ecomla`.
        interpolation, retained: of `minicache`. exact_share: of `mikv`. salient_bits,
        salient_share: of `zipcache`. merge_cosine, merged_share: of `kvmerger`. attention_weight:
        of `critic`. features: of `lizard`. recomputed_share: of the documents' tokens, those that
        `cacheblend` reads again. documents: the `SavedDocuments` of the call, for that; no option
        of its own. They are checked, and have their defaults, in the methods' files
        (`sparse/methods`).
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
    draft_weights: str | None = None
    kv_bits: int | None = None
    kv_group: int | None = None
    label_bits: int | None = None
    anchors: tuple[int, ...] | None = None
    dense: tuple[int, ...] | None = None
    channels: Any = None
    calibration: Any = None
    looked_share: float | None = None
    by_output: bool | None = None
    window_task: str | None = None
    crush_share: float | None = None
    crush_anchor: str | None = None
    redundancy: float | None = None
    induction_heads: float | None = None
    echo_heads: float | None = None
    streaming_heads: float | None = None
    episodes: int | None = None
    episode_tokens: int | None = None
    rank: int | None = None
    outliers: float | None = None
    key_share: float | None = None
    value_share: float | None = None
    latent_share: float | None = None
    latent_bits: int | None = None
    group_layers: int | None = None
    interpolation: float | None = None
    retained: float | None = None
    exact_share: float | None = None
    salient_bits: int | None = None
    salient_share: float | None = None
    merge_cosine: float | None = None
    merged_share: float | None = None
    attention_weight: float | None = None
    features: int | None = None
    recomputed_share: float | None = None
    tokenizer: Any = field(default=None, compare=False, repr=False)
    documents: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        make_plain(self)
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
            if value is None:
                continue
            if not isinstance(value, (tuple, list)) or not all(type(n) is int for n in value):
                raise InvalidArgument(f"{name}={value!r}: give layer numbers, as in (2, 10, 20)")
            object.__setattr__(self, name, tuple(sorted(set(value))))
        if self.draft_weights not in (None, "int8", "int4"):
            raise InvalidArgument(f"draft_weights={self.draft_weights!r}: give 'int8' or 'int4'")
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


NAMES = frozenset(f.name for f in fields(DraftOptions)) - {"tokenizer", "documents"}
