"""SelfDraft: the target drafts for itself, reading less of its own KV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specdec.control.draft_length import FAR_DEPTH, DraftLength
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Traits
from specdec.drafts.methods.self_draft import SelfDraftOptions
from specdec.drafts.model import ModelDrafter
from specdec.forward.forward_pass import View
from specdec.model.early_exit import first_layers
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

FALLING = 0.6  # acceptance below which a view with refresh "falling" chooses anew
MEMORY = 0.7  # of the running mean of acceptance


class SelfDraft(ModelDrafter):
    """The target's own weights under the view that `options` are on.

    It reads the KV that verification has committed; its own goes to a level apart, is read by the
    rest of the draft, and is dropped when the text moves on. So an error of the view can cost
    acceptance, never change the text. With `draft_layers` it leaves the model early, with
    `draft_weights` it reads a low-precision copy of the weights, too. Where nobody said how much
    to draft and verifying has to fetch keys and values, `DraftLength` says it.
    """

    def __init__(self, target: Target, options: SelfDraftOptions) -> None:
        model = options.model_of(target)
        if options.draft_layers is not None:
            model = first_layers(model, options.draft_layers)
        draft = target if model is target.model else Target(model, borrowed=True)
        self.start(target, draft, options)
        assert options.on is not None
        view: View = options.on.view(target)
        self.view, self.name = view, view.name
        self.may_follow = not any(
            (options.num_draft_tokens, options.draft_width, options.levels, options.draft_nodes)
        )
        self.needs = replace(view.needs, far_costs=True) if self.may_follow else view.needs
        reduced = f"-{options.draft_layers}-{options.draft_weights}" if draft is not target else ""
        cost_key = f"{view.name}-{view.reads}{reduced}"
        self.traits: Traits = Traits(cost_key, self.depth, reads=view.reads)
        self._clock = target.clock
        self._length: DraftLength | None = None
        self._acceptance: dict[int, float] = {}

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> CachedModel:
        model = CachedModel(self.draft, self.view, rows, base=verifier, slots=verifier.slots)
        self._state = model.state
        if self.may_follow and verifier.store.places and verifier.costs.table:
            key = f"{self.traits.cost_key} x1"
            self._length = DraftLength(verifier.costs, self.name, key, self.depth, self._clock)
            self.depth = FAR_DEPTH
        return model

    def leave(self, rows: Sequence[Row]) -> None:
        super().leave(rows)
        for row in rows:
            self._acceptance.pop(row.index, None)

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        propose = super().propose
        return (
            propose(rows, limits)
            if self._length is None
            else self._length.propose(propose, rows, limits)
        )

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """Tell the view where acceptance is falling, and learn how long a draft should be."""
        if self._length is not None:
            self._length.observe(rows, verdicts)
        for row, tree, verdict in zip(rows, trees, verdicts, strict=True):
            drafted = max(tree.depths())
            if drafted:
                before = self._acceptance.get(row.index, 1.0)
                now = MEMORY * before + (1 - MEMORY) * verdict.num_accepted / drafted
                self._state.of(row.slot).is_falling = now < FALLING
                # after a new choice its own acceptance counts
                self._acceptance[row.index] = 1.0 if now < FALLING else now
