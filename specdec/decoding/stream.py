"""GenerationStream: the loop that turns one request into text, round by round."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from time import perf_counter

import torch
from torch import Tensor

from specdec.control.calibration import calibrate
from specdec.control.crowd import crowd
from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.detokenizer import Detokenizer
from specdec.decoding.drafter import Drafter, Wants, wants_of
from specdec.decoding.output import Generation, Provisional, Step
from specdec.decoding.request import Request
from specdec.decoding.setup import make_rows, make_stopper
from specdec.decoding.stats import Stats
from specdec.errors import InvalidArgument
from specdec.forward.forward_pass import View
from specdec.model.target import Target
from specdec.ranks import agreed
from specdec.sampling import device_verify
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES, TokenTree
from specdec.sampling.verify import Verdict

log = logging.getLogger("specdec")

LOOK_AGAIN = 64  # rounds after which the text may have grown to a length not measured yet


class GenerationStream:
    """An iterator over the steps of one request; `generations` holds the results at the end.

    The prompts are read at the first step. Rows finish on their own; the others go on without them.
    Who leaves early closes it, or uses it as a context; the streamer is ended then, too, as it is
    after an error, so that nobody waits for more text.
    """

    def __init__(self, target: Target, request: Request, drafter: Drafter) -> None:
        self.target, self.request = target, request
        self.drafter = Asking(drafter)
        self.view: View = request.methods.view.view(target)
        self.seed = agreed(target.is_parallel, seed_of(request))
        self.rows = make_rows(target, request, self.seed or 0)
        self.stoppers = [make_stopper(target, request, row) for row in self.rows]
        self.stats = [Stats() for _ in self.rows]
        self.generations: list[Generation] = []
        self._rounds = 0
        self._foretold: list[TokenTree] | None = None
        self._model: CachedModel | None = None
        self._is_left = False
        self._steps = self._generate()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        with self.target.threads.used():
            return next(self._steps)

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more steps; `generations` stays empty if they were not all taken."""
        self._steps.close()
        self._leave()  # a stream that was never begun has nobody else to do so

    def provisional(self, count: int = 16) -> list[Provisional]:
        """What the text of each row may begin with, up to `count` tokens, before the target has
        read the prompts; the first round verifies it.

        With drafter="cacheblend" alone; at most once, and before the first step.
        Raises InvalidArgument otherwise.
        """
        if type(count) is not int or not 1 <= count < MAX_NODES:
            raise InvalidArgument(f"provisional({count!r}): give 1 to {MAX_NODES - 1} tokens")
        if self._model is not None or self._foretold is not None or self._is_left:
            raise InvalidArgument("provisional text comes once, and before the first step")
        limits = [min(count, self._limit(row)) for row in self.rows]
        with self.target.threads.used(), torch.inference_mode():
            self._foretold = self.drafter.foretell(self.rows, limits)
        return [
            self._provisional(row, tree)
            for row, tree in zip(self.rows, self._foretold, strict=True)
        ]

    def _provisional(self, row: Row, tree: TokenTree) -> Provisional:
        ids = tree.path_tokens(len(tree) - 1)
        shown = Detokenizer(self.request.tokenizer, row.tokens)
        text = "".join([*(shown.push(token) for token in ids), shown.flush()])
        return Provisional(row.index, ids, text)

    def run(self) -> list[Generation]:
        """All steps at once; the results in order of the rows."""
        for _ in self:
            pass
        return self.generations

    def _generate(self) -> Generator[Step, None, None]:
        try:
            yield from self._text()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Whether all is said, something failed or nobody listens any more: end the streamer, and
        keep what was measured."""
        if self._is_left:
            return
        self._is_left = True
        try:
            if self._model is not None and self._wants.costs:
                self._model.costs.save()
        finally:
            if self.request.streamer is not None:
                self.request.streamer.end()

    @property
    def model(self) -> CachedModel:
        """The target with the KV of this request's rows."""
        assert self._model is not None, "no step has been taken"
        return self._model

    def _text(self) -> Iterator[Step]:
        """All steps, and then the results."""
        self._log()
        streamer = self.request.streamer
        if streamer is not None:
            streamer.put(torch.tensor([self.rows[0].tokens]))
        start = perf_counter()
        with torch.inference_mode():
            self._model = CachedModel(
                self.target, self.view, self.rows, recorder=self._wants.recorder(),
                saved=getattr(self.view, "saved", self.request.saved_prompt),
                on_spill=self._wants.on_spill,
            )  # fmt: skip
            calibration_s = self._calibrate(self.rows)
            self.drafter.begin(self.rows, self.model)
        for stats in self.stats:
            stats.calibration_s = calibration_s
            stats.prefill_s = perf_counter() - start - calibration_s
        active = list(self.rows)
        while active:
            if self._rounds % LOOK_AGAIN == LOOK_AGAIN - 1:
                self._calibrate(self._together(active))
            for row, verdict, tree in self._round(self._together(active)):
                step = self._step(row, verdict, tree)
                if streamer is not None:
                    streamer.put(torch.tensor(step.token_ids))
                yield step
            active = [row for row in active if not self.stoppers[row.index].finish_reason]
        self.generations = [self._generation(row) for row in self.rows]

    @torch.inference_mode()
    def _round(self, rows: list[Row]) -> list[tuple[Row, Verdict, TokenTree]]:
        """One round for `rows`: propose, verify, take up what is emitted, let drafters see it."""
        clock = self.target.clock
        start = clock()
        limits = [self._limit(row) for row in rows]
        proposed, self._foretold = self._foretold or self.drafter.propose(rows, limits), None
        trees = [
            tree.cropped(MAX_NODES, limit) for tree, limit in zip(proposed, limits, strict=True)
        ]
        drafted = clock()
        keys = sum(len(row.tokens) for row in rows)
        best = all(row.sampler.is_argmax for row in rows)
        logits = self.model.forward(rows, trees, best)
        verdicts = self._verify(rows, trees, logits)
        verified = clock()
        nodes = len(rows) * max(map(len, trees))
        crowd.compare(self.model.costs.note(nodes, keys, verified - drafted))
        for row, verdict in zip(rows, verdicts, strict=True):
            row.tokens.extend(verdict.tokens)
            row.stable, row.round = len(row.tokens), row.round + 1
        self.drafter.observe(rows, trees, verdicts)
        end = clock()
        for row, tree, verdict in zip(rows, trees, verdicts, strict=True):
            stats = self.stats[row.index]
            stats.record(
                tree, verdict.num_accepted, len(verdict.tokens),
                drafted - start + end - verified, verified - drafted, end - start,
            )  # fmt: skip
        self._rounds += 1
        return list(zip(rows, verdicts, trees, strict=True))

    def _verify(
        self, rows: list[Row], trees: list[TokenTree], logits: list[Tensor]
    ) -> list[Verdict]:
        stoppers = [self.stoppers[row.index] for row in rows]
        for stopper in stoppers:
            stopper.begin_round()
        finals = [stopper.is_final for stopper in stoppers]
        if device_verify.suits(rows, logits):
            return device_verify.verify(rows, trees, logits, finals)
        return [
            row.sampler.verify(row, tree, row_logits, is_final)
            for row, tree, row_logits, is_final in zip(rows, trees, logits, finals, strict=True)
        ]

    def _limit(self, row: Row) -> int:
        """The deepest draft that may be worth anything: one token comes from the target itself."""
        limit = row.max_tokens - len(row.tokens) - 1
        return self.target.rotation.limit(row.span, limit)

    def _together(self, active: list[Row]) -> list[Row]:
        """The rows of the next pass: all, unless the model turns some of them differently."""
        return self.target.rotation.together(active, [row.span for row in active])[0]

    def _step(self, row: Row, verdict: Verdict, tree: TokenTree) -> Step:
        sources = [tree.proposers[node] for node in verdict.path[1:]]
        sources += ["target"] * (len(verdict.tokens) - len(sources))
        stopper = self.stoppers[row.index]
        return Step(
            row.index, verdict.tokens, sources, stopper.take_pieces(), stopper.finish_reason
        )

    def _generation(self, row: Row) -> Generation:
        stopper, request = self.stoppers[row.index], self.request
        stats = self.stats[row.index]
        stats.inner = self.drafter.inner_stats(row.index)
        stats.explanation = self.drafter.explain()
        stats.reads = {**self.model.reads(row.index), **self.drafter.reads(row.index)}
        stats.unasked = row.unasked
        return Generation(
            text=stopper.text,
            token_ids=row.tokens[row.num_prompt_tokens :],
            finish_reason=stopper.finish_reason or "length",
            lossless=self.view.lossless,
            drafter=self.drafter.name,
            acceptance=request.acceptance,
            view=self.view.name,
            seed=self.seed,
            num_prompt_tokens=row.num_prompt_tokens,
            prompt_index=row.prompt_index,
            sample_index=row.index % request.params.num_return_sequences,
            stats=stats,
        )

    @property
    def _wants(self) -> Wants:
        return Wants.all_of([wants_of(self.drafter), Wants.of_view(self.view)])

    @torch.inference_mode()
    def _calibrate(self, rows: list[Row]) -> float:
        """Have the costs of passes at this length of text known, if they matter; seconds taken."""
        return calibrate(self.model, rows) if self._wants.costs else 0.0

    def _log(self) -> None:
        rows, request = len(self.rows), self.request
        how = f"sampling, seed {self.seed}" if request.params.samples else "greedy"
        log.info(
            "%s in %s on %s: %d sequence%s, drafter %s, acceptance %s, view %s, %s",
            type(self.target.model).__name__, str(self.target.dtype).removeprefix("torch."),
            self.target.device, rows, "s" * (rows > 1), self.drafter.name, request.acceptance,
            self.view.name, how,
        )  # fmt: skip


def seed_of(request: Request) -> int | None:
    """The seed as given, else one from PyTorch's generator, so that `torch.manual_seed` counts."""
    if not request.params.samples:
        return None
    if request.params.seed is not None:
        return request.params.seed
    return int(torch.randint(0, 1 << 62, (), dtype=torch.int64))
