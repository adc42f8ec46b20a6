"""HeadMean: one score a token, whichever head (Elastic Cache, arXiv 2407.18121)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.importances.importance import Importance
from specdec.sparse.text import Text


@dataclass(frozen=True)
class HeadMean:
    """The mean of `base` over a layer's KV heads, for all of them."""

    base: Importance

    @property
    def page_size(self) -> int:
        return self.base.page_size

    @property
    def needs(self) -> Needs:
        return self.base.needs

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        found = self.base.scores(text)
        return None if found is None else found.mean(dim=0).expand_as(found).contiguous()
