"""GenerationStream: the loop that turns one request into text, round by round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from time import perf_counter

import torch

from specdec.cache.kept_text import KeptText
from specdec.cache.slots import Slots
from specdec.control.calibration import calibrate
from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.detokenizer import Detokenizer
from specdec.decoding.drafter import Drafter
from specdec.decoding.output import Generation, Provisional, Step
from specdec.decoding.request import Request
from specdec.decoding.rounds import Rounds
from specdec.decoding.row_output import RowOutput
from specdec.decoding.scheduler import Counted, Scheduler
from specdec.decoding.setup import make_rows
from specdec.errors import InvalidArgument
from specdec.forward.forward_pass import View
from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import PromptQueries
from specdec.forward.query_recorder import QueryRecorder
from specdec.model.target import Target
from specdec.ranks import agreed
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES, TokenTree

log = logging.getLogger("specdec")

LOOK_AGAIN = 64  # rounds after which the text may have grown to a length not measured yet


class GenerationStream:
    """An iterator over the steps of one request; `generations` holds the results at the end.

    The prompts are read at the first step. Rows finish on their own; the others go on without them.
    Rows of other requests may be added on the way, and any row cancelled, between steps.
    Who leaves early closes it, or uses it as a context; the streamer is ended then, too, as it is
    after an error, so that nobody waits for more text.

    slots: how many rows may be decoded at a time, and how long each may grow; None: as many and as
    long as the request's. keep: is given what the target has read of each row that is done, where
    that can be kept: it must have read everything, and nothing may lie on disk.
    """

    def __init__(
        self,
        target: Target,
        request: Request,
        drafter: Drafter,
        slots: Slots | None = None,
        keep: Callable[[KeptText], None] | None = None,
    ) -> None:
        self.target, self.request, self._keep = target, request, keep
        self.drafter = Asking(drafter)
        self.view: View = request.methods.view.view(target)
        self.rows: list[Row] = []
        self.outputs: list[RowOutput] = []
        self.generations: list[Generation] = []
        rows = self._rows_of(request)
        self.seed = self.outputs[0].seed
        given = request.share_prefixes
        own = Slots(len(rows), shares=target.shares_text if given is None else given)
        self.slots = own if slots is None else slots
        self.scheduler = Scheduler(self.drafter, target.rotation, self.slots.count)
        self.scheduler.add(rows)
        self.rounds = Rounds(target, self.drafter)
        self._calibration_s = 0.0
        self._foretold: list[TokenTree] | None = None
        self._is_left = False
        self._steps = self._generate()

    def add(self, request: Request) -> list[Row]:
        """Rows of another request, which join when there are slots for them; their steps come from
        this stream, too.

        Raises InvalidArgument for one that this stream's drafter and view are not made for.
        """
        mine = self.request
        for name in ("drafter", "view", "options", "acceptance", "saved_prompt", "saved_documents"):
            if getattr(request, name) != getattr(mine, name):
                raise InvalidArgument(
                    f"rows of one stream have one drafter and view, and {name} differs: make "
                    "another stream"
                )
        if self._is_left or self._foretold is not None or request.streamer is not None:
            raise InvalidArgument(
                "rows join a stream that goes on, after its provisional text, and without a "
                "streamer of their own"
            )
        rows = self._rows_of(request)
        self.scheduler.add(rows)
        return rows

    def cancel(self, index: int) -> None:
        """End a row where it stands; its slot is free for another one."""
        self.scheduler.cancel(self.rows[index])

    def _rows_of(self, request: Request) -> list[Row]:
        seed = agreed(self.target.is_parallel, seed_of(request))
        rows = make_rows(self.target, request, seed or 0, self.rows)
        self.rows += rows
        for place, row in enumerate(rows):
            self.outputs.append(RowOutput(self.target, request, row, place, seed))
        return rows

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
        if self.scheduler.model is not None or self._foretold is not None or self._is_left:
            raise InvalidArgument("provisional text comes once, and before the first step")
        limits = [min(count, self.rounds.limit(row)) for row in self.rows]
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
            if self.scheduler.model is not None and self._wants_costs(self.model):
                self.model.costs.save(is_due=False)
        finally:
            if self.request.streamer is not None:
                self.request.streamer.end()

    @property
    def model(self) -> CachedModel:
        """The target with the KV of the rows that are being decoded."""
        assert self.scheduler.model is not None, "no step has been taken"
        return self.scheduler.model

    def _text(self) -> Iterator[Step]:
        """All steps, and then the results."""
        self._log()
        streamer = self.request.streamer
        if streamer is not None:
            streamer.put(torch.tensor([self.rows[0].tokens]))
        while self.scheduler.is_busy:
            self._admit()
            if self.rounds.count % LOOK_AGAIN == LOOK_AGAIN - 1:
                self._calibrate(self.model, self.scheduler.turn())
            rows, self._foretold, foretold = self.scheduler.turn(), None, self._foretold
            for output, verdict, tree in self.rounds.run(
                self.model, [self.outputs[row.index] for row in rows], foretold
            ):
                step = output.step(verdict, tree)
                if streamer is not None:
                    streamer.put(torch.tensor(step.token_ids))
                yield step
            done = [row for row in self.scheduler.active if self.outputs[row.index].is_done]
            self._keep_texts(done)
            self.scheduler.leave(done)
        explanation = self.drafter.explain()
        for output in self.outputs:
            counted = self.scheduler.counted.pop(output.row.index, Counted())
            output.end(counted.reads, counted.inner, explanation)
        self.generations = [
            output.generation(self.drafter.name, self.view.name, self.view.lossless)
            for output in self.outputs
        ]

    @torch.inference_mode()
    def _keep_texts(self, rows: Sequence[Row]) -> None:
        if self._keep is None or not self.view.lossless:
            return
        for row in rows:
            self.model.sync_to(row, len(row.tokens) - 1)
            store = self.model.store
            notes = PromptQueries.kept(store, row.slot)
            kept = KeptText.of(store, row.slot, row.keys(), notes)
            if kept is not None:
                self._keep(kept)

    def _admit(self) -> None:
        """Have rows join that there are slots for."""
        start, self._calibration_s = perf_counter(), 0.0
        joined = self.scheduler.admit(self._open)
        taken = perf_counter() - start - self._calibration_s
        for row in joined:
            stats = self.outputs[row.index].stats
            stats.calibration_s, stats.prefill_s = self._calibration_s, taken

    def _open(self, rows: Sequence[Row]) -> CachedModel:
        """The verifying model, with the rows that join first; what its passes cost is known."""
        model = CachedModel(
            self.target, self.view, rows, recorder=QueryRecorder.of(self._needs),
            saved=self.view.needs.prefix or self.request.saved_prompt,
            on_spill=self._needs.on_spill, slots=self.slots,
        )  # fmt: skip
        self._calibration_s = self._calibrate(model, rows)
        return model

    @property
    def _needs(self) -> Needs:
        return Needs.all_of([self.drafter.needs, self.view.needs])

    @torch.inference_mode()
    def _calibrate(self, model: CachedModel, rows: Sequence[Row]) -> float:
        """Have the costs of passes at this length of text known, if they matter; seconds taken."""
        return calibrate(model, rows) if self._wants_costs(model) else 0.0

    def _wants_costs(self, model: CachedModel) -> bool:
        needs = self._needs
        return needs.costs or (needs.far_costs and bool(model.store.places))

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
