"""Rounds: propose, one pass of the target, verify, take up what is emitted, observe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.control.crowd import crowd
from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.row_output import RowOutput
from specdec.model.target import Target
from specdec.sampling import device_verify
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES, TokenTree
from specdec.sampling.verify import Verdict


class Rounds:
    """Rounds of one drafter and one target, for any rows that both know; `count` of them so far."""

    def __init__(self, target: Target, drafter: Asking) -> None:
        self.target, self.drafter, self.count = target, drafter, 0

    @torch.inference_mode()
    def run(
        self,
        model: CachedModel,
        outputs: Sequence[RowOutput],
        foretold: list[TokenTree] | None = None,
    ) -> list[tuple[RowOutput, Verdict, TokenTree]]:
        """One round for the rows of `outputs`, which take up what it costs. foretold: what the
        drafter has proposed already."""
        rows = [output.row for output in outputs]
        clock = self.target.clock
        start = clock()
        limits = [self.limit(row) for row in rows]
        proposed = foretold or self.drafter.propose(rows, limits)
        trees = [
            tree.cropped(MAX_NODES, limit) for tree, limit in zip(proposed, limits, strict=True)
        ]
        drafted = clock()
        keys = sum(len(row.tokens) for row in rows)
        best = all(row.sampler.is_argmax for row in rows)
        logits = model.forward(rows, trees, best)
        verdicts = self._verify(outputs, trees, logits)
        verified = clock()
        nodes = len(rows) * max(map(len, trees))
        crowd.compare(model.costs.note(nodes, keys, verified - drafted))
        for row, verdict in zip(rows, verdicts, strict=True):
            row.tokens.extend(verdict.tokens)
            row.num_final, row.round = len(row.tokens), row.round + 1
        self.drafter.observe(rows, trees, verdicts)
        end = clock()
        for output, tree, verdict in zip(outputs, trees, verdicts, strict=True):
            output.stats.record(
                tree, verdict.num_accepted, len(verdict.tokens),
                drafted - start + end - verified, verified - drafted, end - start,
            )  # fmt: skip
        self.count += 1
        return list(zip(outputs, verdicts, trees, strict=True))

    def limit(self, row: Row) -> int:
        """The deepest draft that may be worth anything: one token comes from the target itself."""
        limit = row.max_tokens - len(row.tokens) - 1
        return self.target.rotation.limit(row.span, limit)

    def _verify(
        self, outputs: Sequence[RowOutput], trees: list[TokenTree], logits: list[Tensor]
    ) -> list[Verdict]:
        rows, stoppers = zip(*((output.row, output.stopper) for output in outputs), strict=True)
        for stopper in stoppers:
            stopper.begin_round()
        finals = [stopper.is_final for stopper in stoppers]
        if device_verify.suits(rows, logits):
            return device_verify.verify(rows, trees, logits, finals)
        return [
            row.sampler.verify(row, tree, row_logits, is_final)
            for row, tree, row_logits, is_final in zip(rows, trees, logits, finals, strict=True)
        ]
