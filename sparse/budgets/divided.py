"""divided: a view's budget as it stands divided among the layers of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from specdec.forward.view_state import Divided, ViewState
from specdec.sparse.budgets.layer_budget import LayerBudget
from specdec.sparse.text import Text

Judge = Callable[[Text], Tensor | None]


def tokens_of(
    budget: LayerBudget,
    mean: int,
    layers: Sequence[int],
    state: ViewState,
    text: Text,
    round_: int,
    judge: Judge,
) -> int | Tensor:
    """Tokens that the text's layer reads; divided once a round, at the first layer that selects.

    judge: gives importances of a layer's pages. Where there are none yet, each layer has `mean`.
    """
    mine = state.of(text.sequence)
    known = mine.budgets
    if known is None or known.round != round_ or text.layer not in known.tokens:
        found: list[Tensor] = []
        if budget.looks:
            judged = [judge(replace(text, layer=layer)) for layer in layers]
            found = [score for score in judged if score is not None]
        if budget.looks and len(found) < len(layers):
            shares: Sequence[int | Tensor] = [mean] * len(layers)
        else:
            shares = budget.tokens(layers, mean, found)
        tokens = dict(zip(layers, shares, strict=True))
        known = mine.budgets = Divided(round_, tokens)
    share: int | Tensor = known.tokens[text.layer]
    return share
