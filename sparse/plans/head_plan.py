"""HeadPlan: which KV heads look far, and which only at first and last tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.model.target import Target
from specdec.sparse.scorers.channel_order import fingerprint

FORMAT = "specdec head plan 1"


@dataclass(frozen=True)
class HeadPlan:
    """Retrieval heads read all that a selection covers, the others what is forced: a `HeadBudget`.

    far: for each layer, whether each KV head is a retrieval head; () for a sliding-window layer.
    model, text: fingerprint of the model that it was measured on, and on what, in words.
    """

    far: tuple[tuple[bool, ...], ...]
    model: str = ""
    text: str = ""
    is_bounded = False

    def counts(self, score: Tensor, count: int, layer: int) -> Tensor:
        """All pages, or as many as are forced, which have the score inf: `int64[Hkv]`."""
        forced = (score == torch.inf).sum(dim=-1)
        is_far = torch.tensor(self.far[layer], device=score.device)
        return torch.where(is_far, score.shape[1], forced)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        layers = [list(heads) for heads in self.far]
        document = {"format": FORMAT, "model": self.model, "text": self.text, "far": layers}
        write_text(path, json.dumps(document) + "\n")

    @classmethod
    def load(cls, path: str | Path, target: Target) -> HeadPlan:
        """Read a file that `save` wrote for this model.

        Raises InvalidArgument if it cannot be read, is something else, or is another model's.
        """
        try:
            document = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InvalidArgument(
                f"head plan {str(path)!r} cannot be read ({error.strerror or error})"
            ) from error
        except ValueError as error:
            raise InvalidArgument(f"{path} is no head plan") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidArgument(f"{path} is no head plan")
        if document.get("model") != fingerprint(target):
            raise InvalidArgument(
                f"head plan {path} was made for another model than this "
                f"{type(target.model).__name__} of {target.num_layers} layers"
            )
        plan = cls(_heads(document.get("far")), document["model"], str(document.get("text", "")))
        plan.check(target)
        return plan

    def check(self, target: Target) -> None:
        """Raise InvalidArgument unless it has a word for every KV head of the model."""
        kinds = target.layer_types[: target.num_layers]
        fits = len(self.far) == len(kinds) and all(
            len(heads) == target.kv_shape.kv_heads or (not heads and kind == "sliding_attention")
            for heads, kind in zip(self.far, kinds, strict=True)
        )
        if not fits:
            raise InvalidArgument(
                f"a head plan of {len(self.far)} layers does not fit this model of {len(kinds)} "
                f"layers with {target.kv_shape.kv_heads} KV heads"
            )


def _heads(layers: Any) -> tuple[tuple[bool, ...], ...]:
    if not isinstance(layers, Sequence) or not all(
        isinstance(heads, list) and all(isinstance(x, bool) for x in heads) for heads in layers
    ):
        raise InvalidArgument("a head plan is cut or changed")
    return tuple(tuple(heads) for heads in layers)
