"""PageBudget: the options that all views share which select pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specdec.errors import InvalidArgument
from specdec.method import ViewMethod, option
from specdec.option_kinds import LayerRule, Layers, Rounds, Tokens

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.scorers.base import Scorer
    from specdec.sparse.view import SparseView

REFRESH = ("pass", "round", "falling", "prompt")


@dataclass(frozen=True)
class FirstLayers(LayerRule):
    """The first `count` layers; of a very shallow model at most half."""

    count: int

    def of(self, layer_types: Sequence[str]) -> tuple[int, ...]:
        return tuple(range(min(self.count, len(layer_types) // 2)))

    def __str__(self) -> str:
        return ",".join(map(str, range(self.count)))


@dataclass(frozen=True)
class EndLayers(LayerRule):
    """The `first` layers and the `last` ones; none of a model with fewer than twice as many."""

    first: int
    last: int

    def of(self, layer_types: Sequence[str]) -> tuple[int, ...]:
        layers = len(layer_types)
        if layers < 2 * (self.first + self.last):
            return ()
        return (*range(self.first), *range(layers - self.last, layers))

    def __str__(self) -> str:
        last = "last" if self.last == 1 else f"last {self.last}"
        return ",".join([*map(str, range(self.first)), last])


@dataclass(frozen=True)
class PageBudget(ViewMethod):
    """A budget of tokens, of which some are always read, and when the others are selected anew.

    dense and anchors are a `LayerRule` where they depend on the model. Where the caller names only
    one of them, the method's own gives way to it.
    """

    budget: int = option(
        512, "Tokens of the context that each layer reads, those of sink and recent included.",
        Tokens(),
    )  # fmt: skip
    sink: int = option(16, "First tokens that are always read.", Tokens())
    recent: int = option(64, "Last tokens that are always read.", Tokens())
    refresh: str | int = option(
        "round", "When to select anew: every pass, every round, where acceptance is falling, once "
        "a prompt, or every N rounds.", Rounds(REFRESH),
    )  # fmt: skip
    anchors: tuple[int, ...] | LayerRule | None = option(
        None, "Layers that select for those above them; without them each selects for itself.",
        Layers(),
    )  # fmt: skip
    dense: tuple[int, ...] | LayerRule = option((), "Layers that read everything.", Layers())

    def policy(
        self,
        name: str,
        target: Target,
        scorer: Scorer | None = None,
        *,
        exact_anchors: bool = False,
        kind: type[SparseView] | None = None,
        **more: Any,
    ) -> SparseView:
        """A view with these options, checked against the model.

        scorer: none where an importance judges. kind: of view, if not the usual one. more: what
        else a `sparse.policy.Policy` says.
        """
        from specdec.sparse.layer_sharing import Sharing
        from specdec.sparse.scorers.recency import Recency
        from specdec.sparse.view import SparseView

        dense, anchors = self.dense, self.anchors
        if isinstance(anchors, LayerRule):
            anchors = anchors.of(target.layer_types)
            if not isinstance(dense, LayerRule):
                anchors, own = tuple(layer for layer in anchors if layer not in dense), anchors
                if own and not anchors:
                    raise InvalidArgument(
                        f"dense={dense} takes all layers that choose for the others in view "
                        f"{name!r}, which are {own}: leave it one of them, or give anchors as well"
                    )
        if isinstance(dense, LayerRule):
            dense = tuple(n for n in dense.of(target.layer_types) if n not in (anchors or ()))
        sharing = Sharing(dense=dense, anchors=anchors, exact_anchors=exact_anchors)
        view = (kind or SparseView)(
            name, scorer or Recency(), sharing, budget=self.budget, sink=self.sink,
            recent=self.recent, **{"refresh": self.refresh, **more},
        )  # fmt: skip
        view.check(target)
        return view
