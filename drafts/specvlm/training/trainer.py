"""ImageTrainer: distils a target into a block and a compressor, on texts and then on images."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from specdec.drafts.longspec.block import LongSpecBlock
from specdec.drafts.longspec.training.objective import Frozen, distance, figures, ranks_of
from specdec.drafts.longspec.training.settings import Pace
from specdec.drafts.longspec.training.start import Judged, Parts
from specdec.drafts.longspec.training.trainer import Trainer, some_texts, step_lag
from specdec.drafts.specvlm.compressor import BRANCHES, GATE, PART, Compressor, compressor_of
from specdec.drafts.specvlm.image import ImageSizes
from specdec.drafts.specvlm.training.answer_parts import learned
from specdec.drafts.specvlm.training.image_lessons import ImageLessons
from specdec.drafts.specvlm.training.pairs import Pair, split_pairs
from specdec.drafts.specvlm.training.settings import ImageSettings
from specdec.drafts.specvlm.training.viewer import ImageLesson, Viewer
from specdec.drafts.specvlm.training.visual_block import WAYS, WHOLE, How, VisualBlock
from specdec.loading.loader import Loaded
from specdec.model.target import Target

DEPTH = 4  # of the chains that examinations simulate
_GATED = 0.5  # share of texts that are read through the gate; the others by one way each
_FAVOURED = 0.5  # share of texts that are read by a branch that the settings name
_COLDEST = 0.3  # temperature of the gate's choice at the last step, from 1 at the first


class ImageTrainer(Trainer):
    """As `Trainer`, with steps on images among those on texts, as the settings' share rises.

    A text with images reads them through the gate's relaxed choice, or by one branch, or whole,
    so that each can also be had alone.
    """

    settings: ImageSettings

    def __init__(
        self,
        target: Target,
        loaded: Loaded,
        files: list[Path],
        pairs: list[Pair],
        out: Path,
        settings: ImageSettings,
        pace: Pace,
        accelerator: Accelerator,
        about: dict[str, Any],
    ) -> None:
        super().__init__(target, loaded.tokenizer, files, out, settings, pace, accelerator, about)
        viewer, s = Viewer(target, self.sizes.kv_layer), settings
        kept, held_out = split_pairs(pairs)
        self.image_lessons = ImageLessons(
            viewer, loaded, kept, seed=s.seed, rows=s.image_rows, most=s.answer_tokens,
            folder=out / "image_lessons",
        )  # fmt: skip
        self.held_out_images = ImageLessons(
            viewer, loaded, held_out, seed=s.seed + 1, rows=pace.held_out, most=s.answer_tokens,
            folder=out / "held_out_images",
        )  # fmt: skip
        self.image_window: dict[int, ImageLesson] = {}

    def _module(self, block: LongSpecBlock) -> VisualBlock:
        made = None if self.begun is None else compressor_of(self.begun)
        if made is None:
            torch.manual_seed(self.settings.seed)
            s = self.settings
            own = {"stride": s.stride, "queries": s.queries, "tokens": s.image_tokens}
            made = Compressor(ImageSizes.of(self.sizes, **own))
        return VisualBlock(block, made.requires_grad_().train(), self.settings.image_tokens)

    def _block(self, module: nn.Module) -> LongSpecBlock:
        assert isinstance(module, VisualBlock)
        return module.block

    def _first(self) -> list[Judged]:
        self._recall_images(self.settings.first_image_lessons - 1)
        return [*super()._first(), *self.image_window.values()]

    def _parts(self, module: nn.Module) -> Iterator[Parts]:
        """Of the first lessons on texts and on images, which are read whole."""
        assert isinstance(module, VisualBlock)
        yield from super()._parts(module)
        self._recall_images(self.settings.first_image_lessons - 1)
        for lesson in self.image_window.values():
            batch = lesson.texts(list(range(len(lesson.tokens))), self.device)
            how = How(torch.full((len(batch.tokens),), WAYS.index(WHOLE), device=self.device))
            embedded = self.frozen.embedding(batch.tokens).detach().float()
            yield module.parts(embedded, batch.k, batch.v, self.frozen.rotary, batch, how)

    def _newest(self, step: int) -> int:
        """Fewer texts are needed as the share of images rises."""
        on_text = step - self.settings.image_steps(step)
        return self.settings.first_lessons - 1 + int(on_text) // self.settings.steps_per_lesson

    def _newest_images(self, step: int) -> int:
        s = self.settings
        return s.first_image_lessons - 1 + int(s.image_steps(step)) // s.steps_per_image_lesson

    def _loss(self, step: int, rng: random.Random) -> Tensor:
        s = self.settings
        if rng.random() >= s.image_share(step):
            return super()._loss(step, rng)
        self._recall_images(self._newest_images(step))
        lesson = self.image_window[rng.choice(sorted(self.image_window))]
        batch = some_texts(lesson, lesson.top_ids.shape[1], s.batch_tokens, rng, self.device)
        done = (step - s.text_steps) / (s.steps - s.text_steps)
        how = self._how(batch, rng, _COLDEST**done)
        with self.accelerator.autocast():
            return image_loss(self.model, self.frozen, batch, 1 + step_lag(rng, s.max_lag), s, how)

    def _how(self, batch: ImageLesson, rng: random.Random, temperature: float) -> How:
        gate, count = WAYS.index(GATE), len(batch.tokens)
        others = [way for way in range(len(WAYS)) if way != gate]
        ways = [gate if rng.random() < _GATED else rng.choice(others) for _ in range(count)]
        if self.settings.favourite:
            mine = WAYS.index(self.settings.favourite)
            ways = [mine if rng.random() < _FAVOURED else way for way in ways]
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        uniform = torch.rand(*batch.images.shape[:2], len(BRANCHES), generator=generator)
        noise = -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()
        return How(torch.tensor(ways, device=self.device), noise.to(self.device), temperature)

    def _recall_images(self, newest: int) -> None:
        """As `_recall`, of lessons with images."""
        accelerator, s = self.accelerator, self.settings
        wanted = range(max(0, newest - s.remember + 1), newest + 1)
        for old in [n for n in self.image_window if n not in wanted]:
            del self.image_window[old]
            if not self.pace.keep_lessons:
                number = old * accelerator.num_processes + accelerator.process_index
                self.image_lessons.forget(number)
        for number in wanted:
            if number not in self.image_window:
                lesson = number * accelerator.num_processes + accelerator.process_index
                self.image_window[number] = self.image_lessons(lesson)

    def _examined(self) -> dict[str, Any]:
        """On held-out images, through the gate; `images` and `text`: the acceptance length of each
        way, and on texts."""
        on_text = super()._examined()
        lesson = self.held_out_images(0)
        with self.accelerator.autocast():
            found = {
                way: examined(self.module, self.frozen, lesson, way, self.device) for way in WAYS
            }
        lengths = {way: round(x["acceptance_length"], 3) for way, x in found.items()}
        return {
            **found[GATE],
            "held_out_loss": on_text["held_out_loss"],
            "images": lengths,
            "text": round(on_text["acceptance_length"], 3),
        }

    def _weights(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        block, compressor = self.module.block, self.module.compressor
        weights = {k: x.clone() for k, x in block.state_dict().items()}
        weights |= {f"{PART}.{k}": x.clone() for k, x in compressor.state_dict().items()}
        sizes = replace(compressor.sizes, tokens=self.settings.image_tokens)
        return weights, {PART: sizes.as_dict()}


def answers(module: nn.Module, frozen: Frozen, batch: ImageLesson, lag: int, how: How) -> Tensor:
    """Hidden states `[N, A, hidden]` at the places of a lesson that are learned from."""
    embedded = frozen.embedding(batch.tokens).detach().float()
    out: Tensor = module(
        embedded, None, batch.k, batch.v, frozen.rotary, lag, lesson=batch, how=how
    )
    return out


def image_loss(
    module: nn.Module,
    frozen: Frozen,
    batch: ImageLesson,
    lag: int,
    settings: ImageSettings,
    how: How,
) -> Tensor:
    """What the block's hidden states are from the target's, over answers about images."""
    mask = learned(batch, lag)
    h = answers(module, frozen, batch, lag, how)[mask]
    return distance(
        h, frozen, batch.top_ids[mask], batch.top_logp[mask], batch.hidden[mask], settings
    )


@torch.no_grad()
def examined(
    module: nn.Module, frozen: Frozen, lesson: ImageLesson, way: str, device: torch.device
) -> dict[str, float]:
    """Agreement and simulated acceptance length of chains of DEPTH, one way of reading images."""
    batch = lesson.texts(list(range(len(lesson.tokens))), device)
    how = How(torch.full((len(batch.tokens),), WAYS.index(way), device=device))
    columns = batch.top_ids.shape[1] - DEPTH + 1
    by_lag = [
        ranks_of(answers(module, frozen, batch, lag, how), frozen, batch.top_ids)[
            :, lag - 1 : lag - 1 + columns
        ]
        for lag in range(1, DEPTH + 1)
    ]
    # A chain begins after every token that has DEPTH more behind it.
    whole = torch.arange(columns, device=device) <= batch.count[:, None] - DEPTH
    if not bool(whole.any()):  # answers are shorter than a chain
        whole = torch.ones_like(whole)
    return figures(torch.stack(by_lag, -1)[whole].cpu())
