"""LouisKV (arXiv 2510.11292): clusters of the prompt and segments of what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.errors import UnsupportedModel
from specdec.method import option
from specdec.option_kinds import Number, Rounds
from specdec.sparse.methods.calibrated import Calibrated
from specdec.sparse.methods.page_budget import REFRESH

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class LouisKV(Calibrated):
    """Units are chosen anew when the query turns: when its cosine with the query before, mean over
    the heads, falls below a threshold. The same threshold ends segments.

    The paper tunes it by hand for each model, 0.7 for Qwen3-8B, and does not say how; here it is
    what a fifth of the queries of a text stay below, mean over the layers, measured once. A round
    of drafts begins behind tokens that the draft has not seen, so that is a turn as well.
    """

    paper = "2510.11292"
    family = "selector"
    keeps = "clusters of the prompt and segments of what is written, by their mean keys"
    measure = "louiskv"

    refresh: str | int = option(
        "turn", "When to select anew: every round and where the query turns, every pass, every "
        "round, where acceptance is falling, once a prompt, or every N rounds.",
        Rounds(("turn", *REFRESH)),
    )  # fmt: skip
    turn: float | None = option(
        None, "Cosine of neighbouring queries below which the query has turned. Default: measured "
        "once for a model.", Number(-1.0, 1.0),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.groupings.clusters_then_segments import ClustersThenSegments
        from specdec.sparse.triggers.query_turn import QueryTurn

        turn = self.turn
        if turn is None:
            found = [x["turn"][0] for x in self.measured(target).layers if x]
            if not found:
                raise UnsupportedModel(
                    "view 'louiskv' has nothing to leave out: every layer of this model reads a "
                    "sliding window already"
                )
            turn = sum(found) / len(found)
        refresh = QueryTurn(turn, and_rounds=True) if self.refresh == "turn" else self.refresh
        return self.policy(
            "louiskv", target, groups=ClustersThenSegments(turn), refresh=refresh
        )  # fmt: skip
