"""ZipVL (arXiv 2410.08584): as many salient tokens a layer as cover its attention, in more bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.zipcache import ZipCache

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView

MOST = 0.9  # of the tokens are salient on average: of more nothing would be left to keep in less


@dataclass(frozen=True)
class ZipVL(ZipCache):
    """The copies of `zipcache`; how many tokens are salient follows from the layer. As in the
    paper's first version others are kept in fewer bits; its second one evicts them. Its sparse
    prefill would change what the model reads, and is left out. Texts without images are read alike.
    """

    paper = "2410.08584"
    keeps = "every token; as many in more bits as cover a layer's attention"

    salient_share: float = option(
        0.97, "Share of a layer's attention that its salient tokens cover.", Number(0.01, 1.0)
    )

    name = "zipvl"

    def salient(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.coverage import Coverage

        cover = Coverage(self.salient_share, self.recent + 1)
        policy = super().salient(target)
        return replace(policy, share=MOST, layers=cover, layer_types=tuple(target.layer_types))
