"""SelfDraft: the target drafts for itself, reading less of its own KV."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Traits, Wants
from specdec.decoding.options import DraftOptions
from specdec.drafts.model import ModelDrafter
from specdec.forward.forward_pass import View
from specdec.model.draft_weights import low_precision
from specdec.model.early_exit import first_layers
from specdec.model.target import Target
from specdec.registry import VIEWS
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

FALLING = 0.6  # acceptance below which a view with refresh "falling" chooses anew
MEMORY = 0.7  # of the running mean of acceptance


class SelfDraft(ModelDrafter):
    """The target's own weights under the view that `view` names.

    It reads the KV that verification has committed; its own goes to a level apart, is read by the
    rest of the draft, and is dropped when the text moves on. So an error of the view can cost
    acceptance, never change the text. With `draft_layers` it leaves the model early, with
    `draft_weights` it reads a low-precision copy of the weights, too.
    """

    def __init__(self, view: str, target: Target, options: DraftOptions) -> None:
        model = target.model
        if options.draft_weights is not None:
            model = low_precision(model, target.packing, options.draft_weights)
        if options.draft_layers is not None:
            model = first_layers(model, options.draft_layers)
        draft = target if model is target.model else Target(model, borrowed=True)
        self.start(target, draft, options)
        self.view: View = VIEWS[view].load()(target, options)
        self.name, self.wants = view, Wants.of_view(self.view)
        budget = self.view.reads
        reduced = f"-{options.draft_layers}-{options.draft_weights}" if draft is not target else ""
        self.traits = Traits(f"{view}-{budget}{reduced}", self.depth, reads=budget)
        self._acceptance: dict[int, float] = {}

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> CachedModel:
        model = CachedModel(self.draft, self.view, rows, base=verifier)
        self._falling = model.state.falling
        return model

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """Tell the view where acceptance is falling."""
        for row, tree, verdict in zip(rows, trees, verdicts, strict=True):
            drafted = max(tree.depths())
            if drafted:
                before = self._acceptance.get(row.index, 1.0)
                now = MEMORY * before + (1 - MEMORY) * verdict.num_accepted / drafted
                (self._falling.add if now < FALLING else self._falling.discard)(row.index)
                # after a new choice its own acceptance counts
                self._acceptance[row.index] = 1.0 if now < FALLING else now
