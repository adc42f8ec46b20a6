"""A relative of Lizard (arXiv 2507.09025): a window, and a state for all that is older."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import ViewMethod, option
from specdec.option_kinds import Tokens, Whole

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.tails.tail_view import TailView


@dataclass(frozen=True)
class Lizard(ViewMethod):
    """Experimental: Lizard's own weights are trained, and none are published. Window as in the
    paper, its four sinks as tokens; how it departs says `sparse.tails.tail_view`.
    """

    paper = "2507.09025"
    family = "recurrent tail"
    keeps = "sinks, a window, and a state of constant size"

    features: int | None = option(
        None, "Random features of each head's state; by default it is a mean.", Whole(1, 4096)
    )
    sink: int = option(4, "First tokens that are always read.", Tokens())
    recent: int = option(128, "Last tokens that are always read.", Tokens())

    def view(self, target: Target) -> TailView:
        from specdec.errors import UnsupportedModel
        from specdec.sparse.tails.tail_view import TailView

        if not target.full_layers:
            raise UnsupportedModel(
                "view 'lizard' has nothing to leave out: every layer of this model reads a "
                "sliding window already"
            )
        return TailView("lizard", self.sink, self.recent, self.features)
