"""Trainer: distils a target into a LongSpec block, on one process or many."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from specdec.drafts.longspec.block import LongSpecBlock
from specdec.drafts.longspec.checkpoint import (
    Checkpoint,
    begun,
    describe,
    is_shipped,
    sizes_for,
)
from specdec.drafts.longspec.head_rows import head_rows
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.longspec.training.corpus import split
from specdec.drafts.longspec.training.lessons import Lessons
from specdec.drafts.longspec.training.objective import Frozen, evaluate, loss
from specdec.drafts.longspec.training.optimizer import BlockOptimizer, schedule
from specdec.drafts.longspec.training.progress import Progress
from specdec.drafts.longspec.training.settings import Pace, Settings
from specdec.drafts.longspec.training.start import (
    Judged,
    Parts,
    TextParts,
    batches,
    frequent_tokens,
    new_block,
    solve_start,
)
from specdec.drafts.longspec.training.teacher import Lesson, Teacher, Texts
from specdec.model.target import Target

T = TypeVar("T", bound=Texts)
Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains the block for `target` into the folder `out`, from the start or from where it stood.

    Everything random is drawn from (seed, step, process), so that a run that was killed and
    resumed gives the weights of one that was not. `out` receives config.json and model.safetensors
    (the best block so far), training.safetensors (to go on from) and log.jsonl.
    """

    def __init__(
        self,
        target: Target,
        tokenizer: Any,
        files: list[Path],
        out: Path,
        settings: Settings,
        pace: Pace,
        accelerator: Accelerator,
        about: dict[str, Any],
    ) -> None:
        self.target, self.out, self.settings, self.pace = target, out, settings, pace
        self.accelerator, self.about = accelerator, about
        self.device = accelerator.device
        self.sizes = sizes_for(
            target, settings.mlp_size, settings.window, settings.max_lag, settings.kv_layer
        )
        self.begun = begun(target, settings.start)
        if self.begun is not None:
            self.sizes = self.begun.sizes
        teacher = Teacher(target, self.sizes.kv_layer)
        s = settings
        self.corpus, held_out = split(files)
        self.tokenizer = tokenizer
        self.lessons = Lessons(
            teacher, tokenizer, self.corpus, seed=s.seed, rows=s.rows, length=s.length, long=s.long,
            folder=out / "lessons",
        )  # fmt: skip
        self.held_out = Lessons(
            teacher, tokenizer, held_out, seed=s.seed + 1,
            rows=pace.held_out, length=s.length, long=s.long, folder=out / "held_out",
        )  # fmt: skip
        self.window: dict[int, Lesson] = {}

    def run(self, report: Report) -> Path:
        """Train to the end, or until patience runs out; returns the folder of the checkpoint."""
        self.out.mkdir(parents=True, exist_ok=True)
        before = Progress.load(self.out, self._settings())
        block = new_block(self.target, self.sizes, self.settings.seed)
        if before is None and self.begun is not None:
            block.load_state_dict(self.begun.block().state_dict())
        self.frozen = self._frozen(self._draft_ids(before))
        step, self.best, self.stale = 0, 0.0, 0
        module = self._module(block).to(self.device)
        if before is not None:
            module.load_state_dict(_part(before.tensors, "block."))
            step, self.best, self.stale = before.step, before.best, before.stale
        if before is None and self.begun is None:
            solve_start(block, list(self._parts(module)))  # each solves its own; the first's counts
        if self.settings.learn == "cross":
            block.requires_grad_(False)
            for name in ("cross_norm", "cross_q", "cross_token", "cross_q_norm", "cross_o"):
                if (part := getattr(block, name)) is not None:
                    part.requires_grad_()
        self.model = self.accelerator.prepare_model(module)
        self.module = self.accelerator.unwrap_model(self.model)
        self.optimizer = BlockOptimizer(self.module, self.settings)
        if before is not None:
            self.optimizer.restore(_part(before.tensors, "optimizer."))
        self._loop(step, report)
        return self.out

    def _loop(self, step: int, report: Report) -> None:
        end = self.settings.steps
        if self.pace.stop_after is not None:
            end = min(end, step + self.pace.stop_after)
        if step == 0 and not self.best:
            report(self._evaluated(0, 0.0))
        looked, started, losses = perf_counter(), perf_counter(), []
        while step < end:
            losses.append(self._step(step))
            step += 1
            report({"step": step, "loss": losses[-1], "lesson": self._newest(step - 1)})
            due = perf_counter() - looked > 60 * self.pace.examine_minutes
            if self._agreed(due or step == end):
                mean = sum(losses) / len(losses)
                row = self._evaluated(step, mean)
                row["minutes"] = round((perf_counter() - started) / 60, 2)
                report(row)
                looked, losses = perf_counter(), []
                if self._agreed(self.stale > self.pace.patience):
                    break

    def _step(self, step: int) -> float:
        """One update from `accumulate` passes over texts of one remembered lesson each."""
        s, total = self.settings, 0.0
        rng = random.Random(f"{s.seed}/{step}/{self.accelerator.process_index}")
        for number in range(s.accumulate):
            last = number == s.accumulate - 1
            alone = nullcontext() if last else self.accelerator.no_sync(self.model)
            with alone:
                value = self._loss(step, rng)
                self.accelerator.backward(value / s.accumulate)
            total += float(value.detach()) / s.accumulate
        self.optimizer.step(step)
        return total

    def _loss(self, step: int, rng: random.Random) -> Tensor:
        """Of some texts of a remembered lesson."""
        s = self.settings
        self._recall(self._newest(step))
        lesson = self.window[rng.choice(sorted(self.window))]
        batch = some_texts(lesson, lesson.tokens.shape[1], s.batch_tokens, rng, self.device)
        with self.accelerator.autocast():
            return loss(self.model, self.frozen, batch, 1 + step_lag(rng, s.max_lag), s)

    def _newest(self, step: int) -> int:
        return self.settings.first_lessons - 1 + step // self.settings.steps_per_lesson

    def _recall(self, newest: int) -> None:
        """Hold the lessons that a step may draw from; each process has lessons of its own."""
        wanted = range(max(0, newest - self.settings.remember + 1), newest + 1)
        accelerator = self.accelerator
        for old in [n for n in self.window if n not in wanted]:
            del self.window[old]
            if not self.pace.keep_lessons:
                self.lessons.forget(old * accelerator.num_processes + accelerator.process_index)
        for number in wanted:
            if number not in self.window:
                lesson = number * accelerator.num_processes + accelerator.process_index
                self.window[number] = self.lessons(lesson)

    def _evaluated(self, step: int, mean_loss: float) -> dict[str, Any]:
        """Agreement on held-out texts; keeps the block if it is the best, and the progress."""
        row: dict[str, Any] = {"step": step, "mean_loss": round(mean_loss, 4)}
        row["rate"] = schedule(max(0, step - 1), self.settings) * self.settings.rate
        if self.accelerator.is_main_process:
            row |= self._examined()
            self.stale += 1
            if row["acceptance_length"] > self.best:
                self.best, self.stale = row["acceptance_length"], 0
                self._checkpoint(step).save(self.out)
            self._progress(step).save(self.out)
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        self.accelerator.wait_for_everyone()
        return row

    def _examined(self) -> dict[str, Any]:
        """Figures on held-out texts; among them the acceptance length, which is to rise."""
        held_out = [self.held_out(0)]
        with self.accelerator.autocast():
            return evaluate(self.module, self.frozen, held_out, self.device)

    def _agreed(self, here: bool) -> bool:
        """What the main process, which alone looks at clock and held-out texts, decides for all."""
        flag = torch.tensor([float(here)], device=self.device)
        return bool(broadcast(flag)) if self.accelerator.num_processes > 1 else here

    def _first(self) -> list[Judged]:
        """The lessons before the first step."""
        self._recall(self._newest(0))
        return list(self.window.values())

    def _parts(self, module: nn.Module) -> Iterator[Parts]:
        """What the start is solved from: the first lessons."""
        self._recall(self._newest(0))
        for batch in batches(list(self.window.values()), self.device):
            yield TextParts(self._block(module), self.frozen, batch)

    def _module(self, block: LongSpecBlock) -> nn.Module:
        """What is trained: the block, and what may stand around it."""
        return block

    def _block(self, module: nn.Module) -> LongSpecBlock:
        """The block of what is trained."""
        assert isinstance(module, LongSpecBlock)
        return module

    def _draft_ids(self, before: Progress | None) -> Tensor | None:
        """The draft vocabulary of a run or checkpoint that is gone on from, if there is one."""
        if before is not None:
            return before.tensors["ids"].to(self.device)
        if self.begun is None:
            return None
        ids = self.begun.ids
        return (torch.arange(self.target.vocab_size) if ids is None else ids).to(self.device)

    def _frozen(self, ids: Tensor | None) -> Frozen:
        """What the block shares with the target; the draft vocabulary is settled by process 0."""
        size, vocab = self.settings.draft_vocab, self.target.vocab_size
        if ids is None:
            ids = torch.arange(vocab, device=self.device)
            if 0 < size < vocab:
                ids = frequent_tokens(
                    size, vocab, self._first(), self.corpus, self.tokenizer, self.settings.seed
                ).to(self.device)
                if self.accelerator.num_processes > 1:
                    ids = broadcast(ids)
        row_of = torch.full((vocab,), -1, device=self.device)
        row_of[ids] = torch.arange(len(ids), device=self.device)
        embedding = self.target.model.get_input_embeddings()
        assert embedding is not None
        head = head_rows(self.target, ids)
        return Frozen(embedding, head, ids, row_of, Rotary(self.target, self.sizes.kv_layer))

    def _checkpoint(self, step: int) -> Checkpoint:
        weights, parts = self._weights()
        everything = len(self.frozen.ids) == self.target.vocab_size
        training = {"steps": step, **self.about, "settings": self.settings.as_dict()}
        start = self.settings.start
        return Checkpoint(
            self.sizes, weights, None if everything else self.frozen.ids, describe(self.target),
            training, parts, start if is_shipped(start) else None,
        )  # fmt: skip

    def _weights(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        """What a checkpoint holds, and the sizes of modules in it besides the block."""
        return {k: x.clone() for k, x in self.module.state_dict().items()}, {}

    def _progress(self, step: int) -> Progress:
        tensors = {f"block.{k}": x for k, x in self.module.state_dict().items()}
        tensors |= {f"optimizer.{k}": x for k, x in self.optimizer.state().items()}
        tensors["ids"] = self.frozen.ids
        return Progress(step, self.best, self.stale, self._settings(), tensors)

    def _settings(self) -> dict[str, object]:
        return self.settings.as_dict() | {"processes": self.accelerator.num_processes}


def some_texts(lesson: T, columns: int, tokens: int, rng: random.Random, device: torch.device) -> T:
    """So many texts of a lesson, of `columns` tokens each, that they hold `tokens` in all."""
    rows = len(next(iter(vars(lesson).values())))
    chosen = rng.sample(range(rows), min(max(1, tokens // columns), rows))
    return lesson.texts(chosen, device)


def step_lag(rng: random.Random, most: int) -> int:
    """0 .. most - 1, the first half of the time: every draft begins one token past the KV."""
    return 0 if rng.random() < 0.5 else rng.randrange(most)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}
