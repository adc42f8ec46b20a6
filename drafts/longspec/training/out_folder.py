"""The folder of a training run: what we write there, and that nothing else is lost by it."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from specdec.drafts.longspec.checkpoint import check_free
from specdec.drafts.longspec.training.progress import FILE
from specdec.errors import InvalidArgument

LOG, PICTURE = "log.jsonl", "training.png"


def check_out(out: Path) -> None:
    """Raise InvalidArgument unless `out` is new, empty of what we write, or holds such a run."""
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"--out {out} is a file: give a folder")
    check_free(out)
    progress = out / FILE
    if progress.exists() and not is_progress(progress):
        raise InvalidArgument(
            f"--out {out} holds a {FILE} that is not of such a run: give another folder"
        )
    for name in (LOG, PICTURE):
        if (out / name).exists() and not progress.exists():
            raise InvalidArgument(
                f"--out {out} holds a {name} and no run that wrote it: give another folder"
            )


def is_progress(path: Path) -> bool:
    """Whether a file is the progress of a run of ours, and whole."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return isinstance(json.loads(metadata["progress"]), dict) and "settings" in metadata
    except (OSError, SafetensorError, ValueError, KeyError):
        return False
