"""Trainer: stages one after the other, whose progress survives a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdec.bench.toy.stages import Stage
from specdec.drafts.longspec.training.progress import Progress

LOG = "log.jsonl"
_WARM_UP = 20  # steps
_LAST = 0.05  # of the rate
_SAVE = 30.0  # seconds between two savings

Report = Callable[[str, int, int, dict[str, float]], None]


class Trainer:
    """Runs a stage in the folder `out`, a folder of its own each; the rest is as it was.

    settings: what the run was started with; progress of other settings is refused.
    """

    def __init__(self, out: Path, settings: dict[str, Any], report: Report) -> None:
        self.out, self.settings, self.report = out, settings, report

    def run(self, stage: Stage, stop_after: int | None = None) -> bool:
        """Train up to the last step, or `stop_after` steps; whether the stage is done."""
        folder = self.out / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        names, learned = list(stage.learned), list(stage.learned.values())
        optimizer = torch.optim.AdamW(learned, stage.rate, (0.9, 0.98), weight_decay=0.0)
        step = self._resume(folder, names, learned, optimizer)
        last = stage.steps if stop_after is None else min(stage.steps, step + stop_after)
        saved = time.monotonic()
        while step < last:
            optimizer.param_groups[0]["lr"] = stage.rate * _share_of_rate(step, stage.steps)
            value, figures = stage.loss(step)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            step += 1
            row = {"loss": float(value.detach()), **figures}
            with (folder / LOG).open("a") as log:
                log.write(json.dumps({"step": step, **row}) + "\n")
            self.report(stage.name, step, stage.steps, row)
            if step == last or time.monotonic() - saved > _SAVE:
                self._save(folder, step, names, learned, optimizer)
                saved = time.monotonic()
        return step >= stage.steps

    def _resume(self, folder: Path, names: list[str], learned: list[Any], optimizer: Any) -> int:
        found = Progress.load(folder, self.settings)
        if found is None:
            return 0
        states: dict[int, dict[str, Tensor]] = {}
        for i, (name, parameter) in enumerate(zip(names, learned, strict=True)):
            parameter.data.copy_(found.tensors[name])
            states[i] = {
                kind: found.tensors[f"{kind} {name}"] for kind in ("step", "exp_avg", "exp_avg_sq")
            }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
        return found.step

    def _save(
        self, folder: Path, step: int, names: list[str], learned: list[Any], optimizer: Any
    ) -> None:
        tensors = {}
        for name, parameter in zip(names, learned, strict=True):
            tensors[name] = parameter.data
            for kind, value in optimizer.state[parameter].items():
                tensors[f"{kind} {name}"] = value
        Progress(step, 0.0, 0, self.settings, tensors).save(folder)


def _share_of_rate(step: int, steps: int) -> float:
    """A short warm-up, then half a wave of the cosine."""
    fall = _LAST + (1 - _LAST) * (1 + math.cos(math.pi * step / max(1, steps))) / 2
    return min(1.0, (step + 1) / _WARM_UP) * fall
