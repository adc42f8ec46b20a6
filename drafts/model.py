"""ModelDrafter: a smaller causal LM proposes a chain, or a tree grown by joint probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Reach, Traits
from specdec.decoding.tree_model import TreeModel
from specdec.drafts.methods.model import ModelOptions
from specdec.drafts.methods.tree_size import GrownTree
from specdec.forward.forward_pass import View
from specdec.forward.full_view import FullView
from specdec.forward.view_reads import ReadStats
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES, Law, TokenTree
from specdec.sampling.verify import Verdict
from specdec.sampling.vocabulary import fit, spread

TREE_WIDTH = 3  # of a tree, where a controller chooses between one and a chain
BEAM = 8  # nodes per level of a tree that is cut to a budget of nodes afterwards
DEPTH = 4  # draft tokens of a chain; what a 10x smaller model can gain without a controller


@dataclass
class _Leaf:
    """A node whose children have not been drawn yet."""

    node: int
    slot: int
    value: float  # probability of its path under the draft model
    logits: Tensor  # of the model's columns, see `TreeModel`


class ModelDrafter(Drafter):
    """Drafts with `options.draft_model`, a Target that shares the target's token ids.

    With `draft_width` w > 1 each level holds w nodes: as in EAGLE-2 (arXiv 2406.16858) those with
    the largest joint probability; `draft_tree` gives a number for each level instead, as in
    LongSpec's 4-16-16-16-16. With `draft_nodes` the tree is cut to its so many most probable nodes,
    the root included; one whose nodes are drawn at random stops growing there instead. How many
    children a node gets is settled from the draft law before they are drawn, so that under
    rejection their law is known; a node is never dropped for the token it turned out to be.
    """

    name = "model"
    Options: ClassVar[type[DrafterMethod]] = ModelOptions
    usual_depth = DEPTH
    chain_prob = 0.0  # of a chain's path, below which it ends where nothing else was asked for

    def __init__(self, target: Target, options: ModelOptions) -> None:
        assert isinstance(options.draft_model, Target)
        self.start(target, options.draft_model, options)

    def start(self, target: Target, draft: Target, options: GrownTree) -> None:
        """Settle who drafts for whom, and how much."""
        self.draft, self.vocab_size = draft, target.vocab_size
        self.view: View = FullView()
        self.shape = options.levels
        self.depth = options.num_draft_tokens or len(self.shape) or self.usual_depth
        self.width = options.draft_width or (BEAM if options.draft_nodes else 1)
        self.budget = options.draft_nodes
        self.traits = self._traits(options)
        self.reach = Reach() if draft is target else Reach.of(draft)
        self.min_prob = options.min_draft_prob
        self._model: TreeModel | None = None

    def _traits(self, options: GrownTree) -> Traits:
        is_given = options.draft_width or options.draft_tree or options.draft_nodes
        widths = (self.width,) if is_given else (1, TREE_WIDTH)
        sizes = self.draft.model.config.get_text_config()
        key = f"{self.name} {self.draft.num_layers}x{sizes.hidden_size}"
        return Traits(key, self.depth, widths)

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        if self._model is None:
            self._model = self.open(rows, verifier)
        else:
            self._model.join(rows)

    def leave(self, rows: Sequence[Row]) -> None:
        self.model.leave(rows)

    @cached_property
    def _tokens(self) -> list[int] | None:
        """Tokens that columns of the model's logits stand for, in host memory; None for all."""
        return None if self.model.ids is None else self.model.ids.tolist()

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> TreeModel:
        """The model that drafts, with a KV store of its own, and the rows that join first."""
        return CachedModel(self.draft, self.view, rows, sees_content=False, slots=verifier.slots)

    @property
    def model(self) -> TreeModel:
        """The model that drafts, with what it holds of the rows that have joined."""
        assert self._model is not None, "no row has joined"
        return self._model

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        trees = {row.index: TokenTree.root(row.tokens[-1]) for row in rows}
        depths = {
            row.index: min(self.depth, limit) for row, limit in zip(rows, limits, strict=True)
        }
        values = {row.index: [1.0] for row in rows}  # of each node, as `_Leaf.value`
        live = [row for row in rows if depths[row.index] > 0]
        leaves: dict[int, list[_Leaf]] = {}
        slots: dict[int, dict[int, int]] = {}  # slot of each tree node the model has read
        if live:
            roots = self.model.forward(live, [trees[row.index] for row in live])
            for row, logits in zip(live, roots, strict=True):
                slot = self.model.root_slot(row)
                leaves[row.index] = [_Leaf(0, slot, 1.0, self._known(logits[0]))]
                slots[row.index] = {0: slot}
        depth, room = 0, MAX_NODES - 1  # nodes that can still be read, in rows side by side
        while live:
            width = self.shape[depth] if depth < len(self.shape) else self.width
            depth += 1
            drawn = {r.index: self._expand(r, trees[r.index], leaves[r.index], width) for r in live}
            for row in live:
                values[row.index] += [leaf.value for leaf in drawn[row.index]]
                drawn[row.index] = [
                    x for x in drawn[row.index] if self._goes_on(x, row, trees[row.index])
                ]
            live = [row for row in live if drawn[row.index] and depth < depths[row.index]]
            room -= max((len(drawn[row.index]) for row in live), default=0)
            if room < 0:
                break
            if live:
                leaves |= self._read(live, trees, drawn, slots)
        return [self._within_budget(trees[row.index], values[row.index]) for row in rows]

    def _goes_on(self, leaf: _Leaf, row: Row, tree: TokenTree) -> bool:
        """Whether to draft behind a leaf: it is likely, no end, and the draft model can read it."""
        token, known = tree.tokens[leaf.node], self.reach.vocab_size
        readable = known is None or token < known
        is_chain = self.width == 1 and not self.shape and self.budget is None
        least = (self.chain_prob if is_chain else 0.0) if self.min_prob is None else self.min_prob
        return leaf.value >= least and token not in row.ends and readable

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """Nothing to do: the model follows the rows' tokens by itself."""

    def reads(self, row: Row) -> dict[str, ReadStats]:
        """What a sparse view read for a row, by name."""
        return self.model.reads(row.slot)

    def _within_budget(self, tree: TokenTree, values: list[float]) -> TokenTree:
        """The most probable nodes of a tree without sampled ones; no parent is less probable."""
        if self.budget is None or tree.is_sampled or len(tree) <= self.budget:
            return tree
        best = sorted(range(len(tree)), key=lambda node: (-values[node], node))
        return tree.only(sorted(best[: self.budget]))

    def _expand(self, row: Row, tree: TokenTree, leaves: list[_Leaf], width: int) -> list[_Leaf]:
        """Draw one level below `leaves`; the new nodes, in order, without logits."""
        if self.budget is not None and tree.is_sampled:
            width = min(width, self.budget - len(tree))  # its nodes cannot be taken back
        width = min(width, MAX_NODES - len(tree))  # no more is verified
        if width < 1:
            return []
        if len(leaves) == 1 == width and not (row.sampler.samples or row.sampler.processors):
            value, column = leaves[0].logits.softmax(-1).max(-1)
            likely, first = torch.stack((value.double(), column.double())).tolist()  # one transfer
            only = leaves[0], self._token(int(first)), leaves[0].value * likely
            return self._added(tree, [only])
        probs = torch.stack([leaf.logits for leaf in leaves]).softmax(-1)
        width = min(width, probs.shape[-1])
        best = probs.topk(width)
        joint = best.values * best.values.new_tensor([[leaf.value] for leaf in leaves])
        chosen = joint.flatten().topk(width).indices
        counts = torch.bincount(chosen // width, minlength=len(leaves)).tolist()
        drawn: list[_Leaf] = []
        for place, (leaf, count) in enumerate(zip(leaves, counts, strict=True)):
            if not count:
                continue
            if row.sampler.samples or row.sampler.processors:
                drawn += self._drawn(row, tree, leaf, count)
                continue
            pairs = zip(best.indices[place].tolist(), joint[place].tolist(), strict=True)
            drawn += self._added(
                tree, [(leaf, self._token(column), value) for column, value in list(pairs)[:count]]
            )
        return drawn

    def _added(self, tree: TokenTree, best: list[tuple[_Leaf, int, float]]) -> list[_Leaf]:
        """Children that are no draw, as (parent, token, value), but for impossible ones."""
        return [
            _Leaf(tree.add(leaf.node, token, Law.POINT, self.name), -1, value, leaf.logits)
            for leaf, token, value in best
            if value > 0
        ]

    def _known(self, logits: Tensor) -> Tensor:
        """A model's logits without tokens that the target does not know."""
        return fit(logits, self.vocab_size) if self.model.ids is None else logits

    def _token(self, column: int) -> int:
        """The token that a column of the model's logits stands for."""
        return column if self._tokens is None else self._tokens[column]

    def _drawn(self, row: Row, tree: TokenTree, leaf: _Leaf, count: int) -> list[_Leaf]:
        """`count` children of one leaf, by the row's own sampling settings."""
        path = tree.path_tokens(leaf.node)
        logits = spread(leaf.logits, self.model.ids, self.vocab_size)
        tokens, law, probs = row.sampler.draft_children(
            self.name, row, path, logits, leaf.node, count
        )
        if law is not Law.POINT:
            tree.draft_probs[leaf.node] = probs
        return [
            _Leaf(tree.add(leaf.node, token, law, self.name), -1, leaf.value * float(p), probs)
            for token, p in zip(tokens, probs[tokens], strict=True)
        ]

    def _read(
        self,
        live: list[Row],
        trees: dict[int, TokenTree],
        drawn: dict[int, list[_Leaf]],
        slots: dict[int, dict[int, int]],
    ) -> dict[int, list[_Leaf]]:
        """One pass of the draft model over the nodes just drawn; they become the next leaves."""
        tokens = [[trees[r.index].tokens[leaf.node] for leaf in drawn[r.index]] for r in live]
        parents = [
            [slots[r.index][trees[r.index].parents[leaf.node]] for leaf in drawn[r.index]]
            for r in live
        ]
        first, logits = self.model.grow(live, tokens, parents)
        for row, row_logits in zip(live, logits, strict=True):
            for i, leaf in enumerate(drawn[row.index]):
                leaf.slot, leaf.logits = first + i, self._known(row_logits[i])
                slots[row.index][leaf.node] = leaf.slot
        return {row.index: drawn[row.index] for row in live}
