"""ViewProfile: how well sparse views stand for the full one on a text, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specdec.bench.views.attention_mass import Walk, walk_along
from specdec.bench.views.drafted import DraftedView
from specdec.errors import InvalidArgument, unknown_name
from specdec.forward.layout import Segments
from specdec.forward.plan import Needs, Selection
from specdec.forward.view_reads import PassRead, ReadStats
from specdec.model.target import Target
from specdec.registry import VIEWS, page_views
from specdec.sparse.budget import row_plan
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
    wants = Needs.all_of([view.needs for view in made])
    walk = walk_along(target, tokens, depth, rounds, wants)
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

    agreement, overlap: `[depth]`; recall: `[layers]`; read: by all passes.
    """

    view: SparseView
    walk: Walk
    agreement: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    read: list[PassRead] = field(default_factory=list)
    rounds: int = 0

    def __post_init__(self) -> None:
        depth, layers = self.walk.depth, self.walk.target.num_layers
        self.agreement, self.overlap = [0.0] * depth, [0.0] * depth
        self.recall = [0.0] * layers
        self.drafted = DraftedView(self.view, self.walk)

    def draft(self) -> None:
        """One draft of the text's own tokens; keeps its laws and choices for the comparison."""
        laws = [self.drafted.begin()]
        self.choices = [self._standing()]
        for token in self.walk.coming[: self.walk.depth - 1]:
            laws.append(self.drafted.feed([token])[0])
            self.choices.append(self._standing())
        self.probs = torch.stack(laws).float().softmax(dim=-1)
        self.read += self.drafted.read

    def compare(self, probs: Tensor) -> None:
        """Add how the draft's laws agree with the full view's, `[depth, V]`."""
        overlap = torch.minimum(self.probs, probs).sum(dim=-1).tolist()
        same = (self.probs.argmax(dim=-1) == probs.argmax(dim=-1)).tolist()
        for place, (shared, equal) in enumerate(zip(overlap, same, strict=True)):
            self.overlap[place] += shared
            self.agreement[place] += equal
        self.rounds += 1

    def count(self, layer: int, mass: Tensor | None) -> None:
        """Add how much of `mass[Hkv, N, S + N]` in a layer the draft has read.

        mass None: a layer with a sliding window, which every view reads alike.
        """
        reads_all = mass is None or self.view.sharing.reads_all(layer)
        for node, choices in enumerate(self.choices):
            choice = choices.get(layer)
            if mass is None or reads_all or choice is None or choice.pages is None:
                self.recall[layer] += 1.0
            else:
                self.recall[layer] += self._part(choice, mass[:, node])

    def to_dict(self) -> dict[str, Any]:
        """Means over the rounds; shares are of the bytes that the full view reads of keys and
        values, `bytes_share` with what was read to choose."""
        rounds, passes = self.rounds, self.rounds * self.walk.depth
        attended, chosen = sum(x.bytes for x in self.read), sum(x.chosen_bytes for x in self.read)
        full = sum(x.full_bytes for x in self.read)
        return {
            "view": self.view.name,
            "budget": self.view.budget,
            "agreement": [count / rounds for count in self.agreement],
            "overlap": [total / rounds for total in self.overlap],
            "recall": [total / passes for total in self.recall],
            "keys_share": attended / full,
            "bytes_per_token": (attended + chosen) / passes,
            "bytes_share": (attended + chosen) / full,
        }

    def _standing(self) -> Choices:
        anchors = [self.view.sharing.anchor_of(n) for n in range(self.walk.target.num_layers)]
        standing = self.drafted.model.state.of(0).selections
        return {
            layer: None if anchor is None else standing.get(anchor)
            for layer, anchor in enumerate(anchors)
        }

    def _part(self, choice: Selection, mass: Tensor) -> float:
        """The share of `mass[Hkv, S + N]` on keys that a choice reads, of which entries that stand
        for others have none: the mean over KV heads."""
        assert choice.pages is not None
        size, covered = self.view.page_size, choice.covered[0]
        segments = Segments(0, 0, [0], [self.walk.committed], 1, ReadStats())
        plan = row_plan(choice, segments, self.view.budget)
        (since,) = plan.since
        pages = mass[:, :covered].unflatten(1, (-1, size)).sum(dim=-1)
        chosen = choice.pages[:, : plan.count]
        is_there = chosen >= 0  # heads may read different numbers
        share = (pages.gather(1, chosen.clamp_min(0)) * is_there).sum(dim=1)
        share = share + mass[:, self.walk.committed :].sum(dim=1)  # the draft's own tokens
        share = share + mass[:, since : self.walk.committed].sum(dim=1)
        return float(share.mean())
