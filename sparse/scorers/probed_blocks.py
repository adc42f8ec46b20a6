"""ProbedBlocks: blocks by their telling keys and one query that stands for all (ActQKV)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.kernels.selection.index_logits import index_logits
from specdec.sparse.scorers.base import Memo, PageScorer
from specdec.sparse.scorers.probe_query import probe_query, representatives


@dataclass(frozen=True)
class ProbedBlocks(PageScorer):
    """ActQKV (arXiv 2502.13542) over InfLLM (arXiv 2402.04617): a block stands for r_P, the mean of
    the `members` keys that the prompt's last queries look at most, or of all its keys where those
    queries were not kept, and its logit is probe(q) . r_P.

    The released code has one probe for all heads side by side; here each KV head has its own. It
    adds the score of the prompt's question, for prompts that are read sparsely; a draft is told by
    the last verification what is asked now, and with the question it accepted less.
    """

    page_size: int = 32
    members: int = 4
    share: float = 0.02
    name: str = "probed-blocks"
    learns = True

    @property
    def key(self) -> str:
        return f"{self.name}-{self.page_size}-{self.members}"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """The representative key of each block, `[Hkv, P, D]`."""
        if memo.queries is None:
            return k.mean(dim=2)
        return representatives(k, memo.queries.to(k.device), self.members)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """One for each block, `[Hkv, 1, P]`."""
        probe = probe_query(q.to(pages), self.share)[:, None]
        return index_logits(probe, pages, scale=scale)
