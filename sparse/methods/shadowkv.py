"""ShadowKV (arXiv 2410.21465): chunks by their mean key, with keys of few directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.rebuilt_keys import KeyCopy
    from specdec.sparse.view import SparseView

CHUNK = 8  # tokens that share a landmark, as in the released code


@dataclass(frozen=True)
class ShadowKV(PageBudget):
    """Keys before rotation of all heads side by side, in their strongest directions, stay where the
    draft runs; of the chosen chunks the keys are made again of these, and only the values are read,
    from wherever they lie. Chunks whose keys are unlike their mean are always read as they are, and
    so are the last four and what is no whole chunk yet.

    The paper takes rank 160 of the 1,024 channels of Llama-3-8B's keys, and 24 outlier chunks for
    1,024 tokens, besides them; here the budget holds them. It takes them of the prompt, and reads
    all that was generated; here that is chosen from, too.
    """

    paper = "2410.21465"
    family = "selector"
    keeps = "chunks of 8 tokens by their mean key; all keys in few directions"

    sink: int = 0
    recent: int = 32
    refresh: str | int = "pass"
    key_share: float = option(
        160 / 1024, "Share of the directions of keys that is kept; 1 reads keys as they are.",
        Number(0.01, 1.0),
    )  # fmt: skip
    outliers: float = option(
        3 / 16, "Share of the budget for chunks that are always read: those whose keys are unlike "
        "their mean.", Number(0.0, 0.5),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.landmarks import Landmarks

        scorer = Landmarks(CHUNK, int(self.outliers * self.budget) // CHUNK)
        keys = None if self.key_share == 1 else self._copy(target)
        return self.policy("shadowkv", target, scorer, keys=keys)

    def _copy(self, target: Target) -> KeyCopy:
        from specdec.sparse.codecs.codec import KeysAlone
        from specdec.sparse.codecs.coded_view import CodedView
        from specdec.sparse.codecs.projected import Projected
        from specdec.sparse.codecs.rebuilt_keys import KeyCopy
        from specdec.sparse.codecs.unturned import Unturned
        from specdec.sparse.maths.key_rotation import KeyRotation

        rotation = KeyRotation.of(target, "shadowkv")
        codec = KeysAlone(Unturned(Projected(self.key_share), rotation), CHUNK)
        groups = {layer: (layer,) for layer in target.full_layers}
        return KeyCopy(CodedView("keys of shadowkv", codec, groups, recent=0))
