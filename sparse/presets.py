"""Presets: the published views by name, and two of our own."""

from __future__ import annotations

from typing import Any

from specdec.decoding.options import DraftOptions
from specdec.errors import InvalidArgument
from specdec.model.target import Target
from specdec.sparse.budgets.adaptive_heads import AdaptiveHeads
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.residues.neighbour_means import NeighbourMeans
from specdec.sparse.scorers.base import Scorer
from specdec.sparse.scorers.channel_calibration import channel_order
from specdec.sparse.scorers.chunk_means import ChunkMeans
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.scorers.label_channels import LabelChannels
from specdec.sparse.scorers.page_bounds import PageBounds
from specdec.sparse.scorers.recency import Recency
from specdec.sparse.view import SparseView


def streaming(target: Target, options: DraftOptions) -> SparseView:
    """Sinks and a window (StreamingLLM, arXiv 2309.17453); rotations stay as they were cached."""
    return _view("streaming", Recency(), target, options, sink=4, recent=0)


def triforce_chunks(target: Target, options: DraftOptions) -> SparseView:
    """Chunks of 8 by their mean key and the last query, chunk 0 kept (TriForce, 2404.11912)."""
    return _view("triforce-chunks", ChunkMeans(8), target, options, sink=8, recent=0)


def quest(target: Target, options: DraftOptions) -> SparseView:
    """Pages of 16 by a bound on their logits, first two layers dense (Quest, 2406.10774).

    The first page and the last 64 tokens are always among them, which the paper leaves to the
    bound: without them overlap with the full view at 512 of 4,000 tokens was 0.87, not 0.91.
    """
    return _view("quest", PageBounds(16), target, options, dense=(0, 1), refresh="pass")


def double_sparsity(target: Target, options: DraftOptions) -> SparseView:
    """Tokens by 16 label channels, first two layers dense (Double Sparsity, 2408.07092).

    `options.channels` says where the channels come from, by default from the prompt.
    """
    bits = 16 if options.label_bits is None else options.label_bits
    scorer = LabelChannels(16, channel_order(target, None, options.channels), bits)
    return _view("double-sparsity", scorer, target, options, dense=(0, 1), refresh="pass")


def tidal(target: Target, options: DraftOptions) -> SparseView:
    """Exact top tokens of anchor layers, reused by those above (TidalDecode, 2410.05076)."""
    return _view(
        "tidal",
        ExactMass(1),
        target,
        options,
        dense=(0, 1),
        anchors=default_anchors(target),
        exact_anchors=True,
        refresh="pass",
    )


def snapkv(target: Target, options: DraftOptions) -> SparseView:
    """Votes of the prompt's last queries, pooled, once per prompt (SnapKV, 2404.14469).

    What is generated takes the place of what had the fewest votes, up to half of the budget.
    """
    return _view(
        "snapkv", ExactMass(1), target, options, queries="prompt", refresh="prompt",
        votes="mean", pool=5,
    )  # fmt: skip


def ada_snapkv(target: Target, options: DraftOptions) -> SparseView:
    """SnapKV with a budget for each KV head by what it looks at (AdaKV, arXiv 2407.11550)."""
    return _view(
        "ada-snapkv", ExactMass(1), target, options, queries="prompt", refresh="prompt",
        votes="mean", pool=5, heads=AdaptiveHeads(),
    )  # fmt: skip


def snapkv_merged(target: Target, options: DraftOptions) -> SparseView:
    """SnapKV, where means of 32 neighbours with their log-count stand for what is left out."""
    return _view(
        "snapkv-merged", ExactMass(1), target, options, queries="prompt", refresh="prompt",
        votes="mean", pool=5, residue=NeighbourMeans(),
    )  # fmt: skip


def verified(target: Target, options: DraftOptions) -> SparseView:
    """Page masses under the queries of the last verification; on a CPU the keys are read again."""
    return _view("verified", ExactMass(8), target, options, queries="verified", votes="mean")


def oracle(target: Target, options: DraftOptions) -> SparseView:
    """Exact top tokens of every layer at every pass: what the others are measured against.

    The first two layers are dense, as with most of the others, and heads vote by their mean.
    """
    return _view(
        "oracle", ExactMass(1), target, options, dense=(0, 1), refresh="pass", votes="mean"
    )


def default_anchors(target: Target) -> tuple[int, ...]:
    """Layer 2 and the ends of the first two thirds, moved up to layers with full attention."""
    layers = len(target.layer_types)
    full = [i for i, kind in enumerate(target.layer_types) if kind != "sliding_attention"]
    wanted = {2, layers // 3, 2 * layers // 3} if layers >= 6 else {0}
    return tuple(sorted({min([i for i in full if i >= w] or full[-1:]) for w in wanted if full}))


def _view(
    name: str,
    scorer: Scorer,
    target: Target,
    options: DraftOptions,
    *,
    dense: tuple[int, ...] = (),
    anchors: tuple[int, ...] | None = None,
    exact_anchors: bool = False,
    sink: int = 16,
    recent: int = 64,
    refresh: str | int = "round",
    **settings: Any,
) -> SparseView:
    """A preset under the caller's options, checked against the model.

    Where the caller names only one of them, the preset's dense layers and anchors give way to it.
    """
    layers = len(target.layer_types)
    if options.anchors is not None:
        anchors = options.anchors
    elif anchors is not None and options.dense is not None:
        anchors, own = tuple(i for i in anchors if i not in options.dense), anchors
        if own and not anchors:
            raise InvalidArgument(
                f"dense={options.dense} takes all layers that choose for the others in view "
                f"{name!r}, which are {own}: leave it one of them, or give anchors as well"
            )
    if options.dense is not None:
        dense = options.dense
    else:
        # of a very shallow model at most half
        dense = tuple(i for i in dense if i < layers // 2 and i not in (anchors or ()))
    sharing = Sharing(dense=dense, anchors=anchors, exact_anchors=exact_anchors)
    view = SparseView(
        name,
        scorer,
        sharing,
        budget=512 if options.budget is None else options.budget,
        sink=sink if options.sink is None else options.sink,
        recent=recent if options.recent is None else options.recent,
        refresh=refresh if options.refresh is None else options.refresh,
        **settings,
    )
    view.check(target)
    return view
