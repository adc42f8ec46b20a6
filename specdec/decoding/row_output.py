"""RowOutput: what becomes of one row: steps on the way, and a generation at the end."""

from __future__ import annotations

from specdec.decoding.output import Generation, Step
from specdec.decoding.request import Request
from specdec.decoding.setup import make_stopper
from specdec.decoding.stats import Stats
from specdec.forward.view_reads import ReadStats
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict


class RowOutput:
    """Of one row of a request: where its text ends, what it costs, and how it is told.

    place: of the row among those of its request. seed: as drawn for the request; None for greedy
    decoding.
    """

    def __init__(
        self, target: Target, request: Request, row: Row, place: int, seed: int | None
    ) -> None:
        self.request, self.row, self.place, self.seed = request, row, place, seed
        self.stopper = make_stopper(target, request, row)
        self.stats = Stats()

    @property
    def is_done(self) -> bool:
        return self.stopper.finish_reason is not None

    def step(self, verdict: Verdict, tree: TokenTree) -> Step:
        """What a round has added."""
        sources = [tree.proposers[node] for node in verdict.path[1:]]
        sources += ["target"] * (len(verdict.tokens) - len(sources))
        pieces, reason = self.stopper.take_pieces(), self.stopper.finish_reason
        return Step(self.row.index, verdict.tokens, sources, pieces, reason)

    def end(
        self, reads: dict[str, ReadStats], inner: dict[str, Stats], explanation: list[str]
    ) -> None:
        """The row has left, done or cancelled: take up what was counted of it."""
        self.stopper.cancel()
        self.stats.reads, self.stats.inner, self.stats.explanation = reads, inner, explanation
        self.stats.unasked = self.row.unasked

    def generation(self, drafter: str, view: str, is_lossless: bool) -> Generation:
        """The result, once the row has left."""
        row, request = self.row, self.request
        prompt, sample = divmod(self.place, request.params.num_return_sequences)
        return Generation(
            text=self.stopper.text,
            token_ids=row.tokens[row.num_prompt_tokens :],
            finish_reason=self.stopper.finish_reason or "length",
            lossless=is_lossless,
            drafter=drafter,
            acceptance=request.acceptance,
            view=view,
            seed=self.seed,
            num_prompt_tokens=row.num_prompt_tokens,
            prompt_index=prompt,
            sample_index=sample,
            stats=self.stats,
        )
