"""DuoAttention (arXiv 2410.10819): half of the heads read all, the others sinks and a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.split_heads import SplitHeads

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.calibrations.calibration import Calibration
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Duo(SplitHeads):
    """Heads by their gates, see `calibrations.streaming_error`; a calibration may be a .tsv file of
    trained gates as the paper's authors ship them. Sinks and window are those of its deployment.
    """

    paper = "2410.10819"
    family = "head plan"
    keeps = "everything for retrieval heads, sinks and a window for the others"
    measure = "duo"

    budget: int = 321  # 64 sinks, 256 recent tokens
    sink: int = 64
    streaming_heads: float | None = option(
        None, "Share of KV heads that stream. Default, as in the paper: 0.5, or 0.75 where each "
        "query head has a KV head of its own.", Number(),
    )  # fmt: skip

    def measured(self, target: Target, tokenizer: Any = None) -> Calibration:
        from specdec.sparse.calibrations.gate_table import read_gates

        if str(self.calibration).endswith(".tsv"):
            return read_gates(self.calibration, target)
        return super().measured(target, tokenizer)

    def view(self, target: Target) -> SparseView:
        layers = self.measured(target).layers
        gates = sorted(gate for x in layers if x for gate in x["gate"])
        share = self.streaming_heads
        if share is None:
            queries = int(target.model.config.get_text_config().num_attention_heads)
            share = 0.75 if queries == target.kv_shape.kv_heads else 0.5
        least = [*gates, float("inf")][int(share * len(gates))]
        far = [[gate >= least for gate in x["gate"]] if x else [] for x in layers]
        return self.split("duo", target, far)
