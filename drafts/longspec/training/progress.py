"""Progress: where a training run stands, in one file that is whole or the one before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.files import UNFINISHED, replacing

FILE = "training.safetensors"


@dataclass(frozen=True)
class Progress:
    """Steps done, the best acceptance length so far, and all tensors, by name.

    settings: what the run was started with; another run's progress is not taken up, but for the
        number of steps, which may be changed: the schedule then ends elsewhere.
    """

    step: int
    best: float
    stale: int
    settings: dict[str, object]
    tensors: dict[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write beside the old file and swap: a kill at any moment leaves one of the two."""
        about = {"step": self.step, "best": self.best, "stale": self.stale}
        metadata = {"progress": json.dumps(about), "settings": json.dumps(self.settings)}
        for leftover in folder.glob(f"{UNFINISHED}*"):
            leftover.unlink()
        with replacing(folder / FILE) as unfinished:
            save_file(
                {k: x.detach().contiguous() for k, x in self.tensors.items()}, unfinished, metadata
            )

    @classmethod
    def load(cls, folder: Path, settings: dict[str, object]) -> Progress | None:
        """The progress in `folder`, if there is any.

        Raises InvalidArgument, naming the difference, if it was made with other settings.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about, before = json.loads(metadata["progress"]), json.loads(metadata["settings"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise InvalidArgument(
                f"--out {folder}: {FILE} is damaged, or of something else ({error}); give another "
                "folder"
            ) from error
        differ = [k for k in settings if k != "steps" and before.get(k) != settings[k]]
        if differ:
            raise InvalidArgument(
                f"--out {folder} holds a run with other settings ({', '.join(differ)}): give the "
                "same ones to go on with it, or another folder"
            )
        return cls(about["step"], about["best"], about["stale"], before, tensors)
