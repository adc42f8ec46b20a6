"""ViewProfile: how well sparse views stand for the full one on a text, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specdec.bench.views.attention_mass import Walk
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Wants
from specdec.errors import InvalidArgument, unknown_name
from specdec.forward.layout import Segments
from specdec.forward.plan import Selection
from specdec.forward.view_reads import ReadStats
from specdec.model.target import Target
from specdec.registry import VIEWS, page_views
from specdec.sampling.tree import TokenTree
from specdec.sparse.budget import row_plan
from specdec.sparse.group_index import GroupIndices
from specdec.sparse.page_index import PageIndex
from specdec.sparse.view import SparseView

Choices = dict[int, "Selection | None"]  # of one pass: what stands for each layer


def profile(
    target: Target,
    tokens: Sequence[int],
    views: Sequence[str],
    budgets: Sequence[int],
    depth: int = 8,
    rounds: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tokenizer: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Compare views with the full view on the last `rounds` * (`depth` + 1) tokens of a text.

    In each round every view drafts `depth` tokens, but is fed the text's own, so that all of them
    are asked the same questions. Returns what `ProfiledView.to_dict` says of each view and budget.
    tokenizer: of the text. options: each for the views that have it. Raises InvalidArgument for
    what is not a view, a budget too small for it, and an option that none of the views has.
    """
    for name in options:
        if not any(name in VIEWS[view].options for view in views if view in VIEWS):
            raise InvalidArgument(f"none of {', '.join(views)} has a use for {name}=: leave it out")
    made = [
        view_of(target, name, budget, options, tokenizer) for name in views for budget in budgets
    ]
    wants = Wants.all_of([Wants.of_view(view) for view in made])
    walk = Walk(target, tokens, depth, rounds, wants)
    profiled = [ProfiledView(view, walk) for view in made]
    for done in range(rounds):
        for place, view in enumerate(profiled):
            view.draft()
            progress(done * len(profiled) + place, rounds * len(profiled))
        probs = walk.verify()[:depth].float().softmax(dim=-1)
        for layer in range(target.num_layers):
            mass = None
            if walk.probe.calls[layer].window is None:
                mass = walk.mass(layer).mean(dim=1)
            for view in profiled:
                view.count(layer, mass)
        for view in profiled:
            view.compare(probs)
        walk.advance()
    return {
        "num_prompt_tokens": walk.row.num_prompt_tokens,
        "depth": depth,
        "rounds": rounds,
        "views": [view.to_dict() for view in profiled],
    }


def view_of(
    target: Target, name: str, budget: int, options: Mapping[str, Any], tokenizer: Any = None
) -> SparseView:
    """The view of a name at a budget."""
    if name not in page_views():
        raise unknown_name("view", name, page_views())
    method = VIEWS[name].method({**options, "budget": budget})
    view = method.resolved(target, tokenizer).view(target)
    assert isinstance(view, SparseView)
    return view


@dataclass
class ProfiledView:
    """One view at one budget beside a walk, and sums over the rounds so far.

    agreement, overlap: `[depth]`; recall: `[layers]`; keys, read and full are numbers of keys and
    bytes over all passes and layers.
    """

    view: SparseView
    walk: Walk
    agreement: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    rounds: int = 0
    keys: int = 0
    full_keys: int = 0
    read: int = 0
    full: int = 0

    def __post_init__(self) -> None:
        depth, layers = self.walk.depth, self.walk.target.num_layers
        self.agreement, self.overlap = [0.0] * depth, [0.0] * depth
        self.recall = [0.0] * layers
        self.model = CachedModel(self.walk.target, self.view, [self.walk.row], base=self.walk.model)
        self._before: Choices = {}

    def draft(self) -> None:
        """One draft of the text's own tokens; keeps its laws and choices for the comparison."""
        row, laws = self.walk.row, []
        self.choices: list[Choices] = []
        logits = self.model.forward([row], [TokenTree.root(row.tokens[-1])])[0]
        laws.append(logits[0])
        self.choices.append(self._standing())
        slot = self.model.root_slot(row)
        for token in self.walk.coming[: self.walk.depth - 1]:
            slot, grown = self.model.grow([row], [[token]], [[slot]])
            laws.append(grown[0, 0])
            self.choices.append(self._standing())
        self.probs = torch.stack(laws).float().softmax(dim=-1)

    def compare(self, probs: Tensor) -> None:
        """Add how the draft's laws agree with the full view's, `[depth, V]`."""
        overlap = torch.minimum(self.probs, probs).sum(dim=-1).tolist()
        same = (self.probs.argmax(dim=-1) == probs.argmax(dim=-1)).tolist()
        for place, (shared, equal) in enumerate(zip(overlap, same, strict=True)):
            self.overlap[place] += shared
            self.agreement[place] += equal
        self.rounds += 1
        self._before = self.choices[-1]

    def count(self, layer: int, mass: Tensor | None) -> None:
        """Add what the draft read in a layer, and how much of `mass[Hkv, N, S + N]` that held.

        mass None: a layer with a sliding window, which every view reads alike.
        """
        keys, values = self.walk.kv(layer)
        per_key = keys[:, 0].nbytes + values[:, 0].nbytes
        window = self.walk.probe.calls[layer].window
        everything = keys.shape[1] if window is None else min(window, keys.shape[1])
        before = self._before.get(layer)
        for node, choices in enumerate(self.choices):
            choice, count, share = choices.get(layer), everything, 1.0
            if mass is not None and choice is not None and choice.pages is not None:
                if not self.view.sharing.reads_all(layer):
                    count, share = self._part(choice, mass[:, node])
                    if choice is not before and self.view.sharing.anchor_of(layer) == layer:
                        self.read += self._index_bytes(layer, keys)
                before = choice
            self.keys += count
            self.full_keys += everything
            self.read += count * per_key
            self.full += everything * per_key
            self.recall[layer] += share

    def to_dict(self) -> dict[str, Any]:
        """Means over the rounds; shares are of what the full view reads."""
        rounds, passes = self.rounds, self.rounds * self.walk.depth
        return {
            "view": self.view.name,
            "budget": self.view.budget,
            "agreement": [count / rounds for count in self.agreement],
            "overlap": [total / rounds for total in self.overlap],
            "recall": [total / passes for total in self.recall],
            "keys_share": self.keys / self.full_keys,
            "bytes_per_token": self.read / passes,
            "bytes_share": self.read / self.full,
        }

    def _standing(self) -> Choices:
        anchors = [self.view.sharing.anchor_of(n) for n in range(self.walk.target.num_layers)]
        standing = self.model.state.selections
        return {
            layer: None if anchor is None else standing.get((0, anchor))
            for layer, anchor in enumerate(anchors)
        }

    def _part(self, choice: Selection, mass: Tensor) -> tuple[int, float]:
        """Keys that a choice reads, entries that stand for others among them, and their share of
        `mass[Hkv, S + N]`, of which entries have none: means over KV heads."""
        assert choice.pages is not None
        size, covered = self.view.page_size, choice.covered[0]
        segments = Segments(0, 0, [0], [self.walk.committed], 1, ReadStats())
        plan = row_plan(choice, segments, self.view.budget)
        count, (since,) = plan.count, plan.since
        pages = mass[:, :covered].unflatten(1, (-1, size)).sum(dim=-1)
        chosen = choice.pages[:, :count]
        is_there = chosen >= 0  # heads may read different numbers
        share = (pages.gather(1, chosen.clamp_min(0)) * is_there).sum(dim=1)
        share = share + mass[:, self.walk.committed :].sum(dim=1)  # the draft's own tokens
        share = share + mass[:, since : self.walk.committed].sum(dim=1)
        read = int(is_there.sum(dim=1).float().mean() * size)
        if choice.entries is not None:
            read += choice.entries.k.shape[1]
        return read + self.walk.committed - since, float(share.mean())

    def _index_bytes(self, layer: int, keys: Tensor) -> int:
        """What choosing anew read: the summaries, or every key where there are none, as for an
        importance, whatever it looks at."""
        level = self.walk.model.store.levels[0]
        if self.view.groups is not None:
            return GroupIndices.of(level, self.view.groups).index(0, layer).nbytes
        if self.view.importance is not None:
            return keys.nbytes
        index = PageIndex.of(level, layer, 0, self.view.scorer)
        assert index is not None
        return keys.nbytes if index.summary is None else index.summary[:, : index.pages].nbytes
