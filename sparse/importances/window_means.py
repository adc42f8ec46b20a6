"""WindowMeans: runs of neighbouring tokens, judged by all or by the better half of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.text import Text


@dataclass(frozen=True)
class WindowMeans:
    """A window's score is the mean of its tokens' attention, or of the better half of them.

    WindowKV (arXiv 2503.17922): a_t = mean over heads of the sum over the suffix's queries; windows
    of 8. A task that locates something (`locating`) takes the better half of a window, one that
    aggregates takes all of it. The paper asks a fine-tuned BERT which task it is; here the caller
    says so.
    """

    size: int = 8
    locating: bool = True

    @property
    def page_size(self) -> int:
        return self.size

    @property
    def needs(self) -> Needs:
        """The suffix's queries: 32 to locate something, else 16."""
        return Needs(32 if self.locating else 16)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`: the same for every KV head."""
        if text.window is None:
            return None
        attention = text.attention(text.window.last(self.needs.prompt_queries))
        return self.score(attention).expand(attention.shape[0], -1).contiguous()

    def score(self, attention: Tensor) -> Tensor:
        """`[P]` for the P full windows. attention: `[Hkv, G, w, S]`."""
        tokens = attention.sum(dim=2).mean(dim=(0, 1))
        windows = tokens[: tokens.shape[0] // self.size * self.size].unflatten(0, (-1, self.size))
        best = self.size // 2 if self.locating else self.size
        return windows.topk(best, dim=-1).values.mean(dim=-1)
