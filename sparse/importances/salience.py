"""Salience: attention by some queries from all over the text, fair to each token (ZipCache)."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import Queries
from specdec.sparse.importances.column_sums import per_sight
from specdec.sparse.text import Text


class Salience:
    """score[h, t] = the mean over the probes that see t of their attention to t, by KV head.

    Probes are the prompt's last queries and every 20th of all (the paper, arXiv 2405.14256, takes
    its last 5 % and a random 5 %), and those of the last verification, by which tokens that came
    since are judged. The released code divides by all queries that see a token though it sums
    probes alone, which favours late tokens; this divides by probes.
    """

    page_size = 1
    needs = Needs(prompt_queries=128, verified=True, probe_every=20)

    def scores(self, text: Text) -> Tensor | None:
        found = [x for x in (text.probes, text.window) if x is not None]
        if text.accepted is not None and text.accepted.shape[1]:
            count = text.accepted.shape[1]
            end = torch.arange(text.length - count, text.length)
            found.append(Queries(text.accepted, end))
        if not found:
            return None
        sums = torch.stack([text.attention(x).sum(dim=2).mean(dim=1) for x in found]).sum(dim=0)
        return per_sight(sums, torch.cat([x.at.to(text.device) for x in found]))
