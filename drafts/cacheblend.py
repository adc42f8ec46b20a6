"""CacheBlendDrafter: the target drafts for itself, on documents that were read apart."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.cache.slots import Slots
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Traits
from specdec.drafts.methods.cacheblend import CacheBlendOptions
from specdec.drafts.model import ModelDrafter
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sparse.blend.view import Blended


class CacheBlendDrafter(ModelDrafter):
    """The target's own weights on a store of its own, which begins with fused documents.

    What the fused keys and values are wrong about costs acceptance, never changes the text: the
    target verifies with documents that it has read as one text. A draft token takes as long as one
    of the target's, unless `draft_weights` has it read a low-precision copy of the weights.
    """

    def __init__(self, target: Target, options: CacheBlendOptions) -> None:
        model = options.model_of(target)
        draft = target if model is target.model else Target(model, borrowed=True)
        self.start(target, draft, options)
        assert options.on is not None
        view: Blended = options.on.view(target)
        self.name, self.view, self.fused = view.name, view, view.saved
        self._is_ahead = False  # the rows that join first are those whose texts were foretold
        self.traits = Traits(f"cacheblend-{options.draft_weights}", self.depth)

    def foretell(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        """Chains from the fused documents, before the target has read them as one text."""
        self._model, self._is_ahead = self._open(rows, None), True
        depth, width, shape, budget = self.depth, self.width, self.shape, self.budget
        self.depth, self.width, self.shape, self.budget = max(limits), 1, (), None
        try:
            return self.propose(rows, limits)
        finally:
            self.depth, self.width, self.shape, self.budget = depth, width, shape, budget

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        if not self._is_ahead:
            super().join(rows, verifier)
        self._is_ahead = False

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> CachedModel:
        return self._open(rows, verifier.slots)

    def _open(self, rows: Sequence[Row], slots: Slots | None) -> CachedModel:
        return CachedModel(self.draft, self.view, rows, saved=self.fused, slots=slots)
