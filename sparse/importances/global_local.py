"""GlobalLocal: what the whole prompt looked at, or what its end looks at, if that says more."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.importances.column_sums import EVERY, summed
from specdec.sparse.text import Text


@dataclass(frozen=True)
class GlobalLocal:
    """EMS's importance for each head: see `global_local`. window: last queries, as SnapKV's."""

    window: int = 32
    page_size = 1

    @property
    def needs(self) -> Needs:
        return Needs(self.window, probe_every=EVERY)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        if text.window is None:
            return None
        last = text.window.last(self.window)
        probes = text.probes if text.probes is not None and len(text.probes.at) else last
        local = text.attention(last).sum(dim=(1, 2))
        return global_local(summed(text, probes).sum(dim=1), local)


def global_local(overall: Tensor, window: Tensor) -> Tensor:
    """max(g / mean g, l / mean l), `[Hkv, S]`: EMS (arXiv 2412.08521).

    overall: g `[Hkv, S]`, attention of queries of the whole prompt; window: l, that of its last
    ones. Each is divided by its mean over the tokens, so that they can be compared. The paper
    leaves open how the two become one; max keeps what either needs.
    """
    ours = (x / x.mean(dim=-1, keepdim=True).clamp_min(1e-30) for x in (overall, window))
    first, second = ours
    return first.maximum(second)
