"""Every method of the registry, as small as it can be made, and what a run of it looks like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.stream import GenerationStream
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.model.target import Target
from specdec.registry import DRAFTERS, VIEWS
from specdec.sampling.sequence import Row

METHODS = [name for name, x in VIEWS.items() if name != "full" and not x.needs_documents]

# What a method needs that is no number, such as a file that it was calibrated with.
BESIDES: dict[str, dict[str, object]] = {}
# With these it leaves nothing out, where that is not said by its budget or its recent tokens.
EVERYTHING: dict[str, dict[str, object]] = {}


def smallest(name: str, engine: Engine) -> dict[str, object]:
    """Options under which a method reads as little as it agrees to; a test is skipped where it
    cannot serve the model."""
    known = VIEWS[name].options
    wanted = {"sink": 2, "recent": 3, "kv_group": 32}
    options = {key: value for key, value in wanted.items() if key in known}
    options |= BESIDES.get(name, {})
    budgets = (24, 32, 40, 48, 64, 80) if "budget" in known else (None,)
    refused = None
    for budget in budgets:
        of_both = options if budget is None else {"budget": budget, **options}
        try:
            engine.stream([1], view=name, **of_both).close()
        except InvalidArgument as error:
            refused = error
        except UnsupportedModel as error:
            pytest.skip(str(error))
        else:
            return of_both
    raise AssertionError(f"{name} takes no budget that these texts are longer than") from refused


def everything(name: str) -> dict[str, object]:
    """Options under which a method leaves nothing out of a text of up to 400 tokens."""
    if name in EVERYTHING:
        return {**BESIDES.get(name, {}), **EVERYTHING[name]}
    key = next(key for key in ("budget", "recent") if key in VIEWS[name].options)
    return {**BESIDES.get(name, {}), key: 400}


def as_a_tree(name: str) -> dict[str, object]:
    """Options under which its drafts branch."""
    return {"draft_width": 2} if "draft_width" in DRAFTERS[name].options else {}


def leaves_out(reads: object) -> bool:
    """Whether some pass read fewer bytes than the model has."""
    return any(read < there for read, there in zip(reads.bytes, reads.full_bytes, strict=True))


@contextmanager
def logits_of_passes() -> Iterator[list[Tensor]]:
    """The logits of all passes, target's and drafts' alike."""
    seen: list[Tensor] = []
    forward = Target.forward

    def noted(self: Target, *args: object) -> Tensor:
        seen.append(forward(self, *args))
        return seen[-1]

    with patch.object(Target, "forward", noted):
        yield seen


def text_under_poison(engine: Engine, prompts: Sequence[list[int]], **kwargs: object) -> list:
    """The results of a stream whose dead slots hold NaN in every round."""
    stream = engine.stream(prompts, **kwargs)
    for _ in stream:
        with torch.inference_mode():
            _poison(stream.model, stream.scheduler.active)
            for draft in _models_of(stream):
                for buffer in (*draft.store.levels[-1].k, *draft.store.levels[-1].v):
                    buffer.fill_(torch.nan)  # between rounds everything in it is out of date
    return stream.generations


def _models_of(stream: GenerationStream) -> list[CachedModel]:
    model = getattr(stream.drafter.drafter, "_model", None)
    return [] if model is None else [model]


def _poison(model: CachedModel, rows: Sequence[Row]) -> None:
    """Fill what was rejected, and what nobody has written yet."""
    for row in rows:
        held, text = model.text.held[row.slot], row.tokens
        path = set(held.path(text[len(held.tokens) : len(text) - 1]))
        for level in model.store.levels[-1:]:
            start = int(level.length[row.slot])
            live = [start + slot for slot in path]
            for buffer in (*level.k, *level.v):
                if buffer is not None:
                    dead = torch.ones(buffer.shape[2], dtype=torch.bool)
                    dead[:start] = False
                    dead[live] = False
                    buffer[row.slot, :, dead] = torch.nan
