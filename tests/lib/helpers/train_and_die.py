"""Trains a tiny drafter; told to, it dies while it writes its n-th progress file.

Started by `accelerate launch` in tests/drafts/test_training.py: folder of the model, data, out,
n or 0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from specdec.drafts.longspec.training import progress, run

SETTINGS = {
    "steps": 6, "batch_tokens": 96, "accumulate": 2, "rows": 6, "length": 32, "long": 48,
    "first_lessons": 1, "steps_per_lesson": 2, "remember": 2, "draft_vocab": 24, "window": 16,
    "rate": 0.02, "vector_rate": 0.01, "hidden_weight": 0.1, "argmax_weight": 0.1,
}  # fmt: skip


def die_at(number: int) -> None:
    """Let the `number`-th write of a progress file stop half way, as a kill would."""
    written = 0
    save_file = progress.save_file

    def save(tensors, path, metadata):
        nonlocal written
        written += 1
        save_file(tensors, path, metadata)
        if written == number:
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            os._exit(9)

    progress.save_file = save


def main() -> None:
    model, data, out, number = sys.argv[1:]
    torch.set_num_threads(1)
    if int(number):
        die_at(int(number))
    pace = {"examine_minutes": 0.0, "held_out": 4}
    run.train(model, [Path(data)], Path(out), SETTINGS, pace, dtype="float32", mixed_precision="no")


if __name__ == "__main__":
    main()
