"""Scores that no token can be chosen by, told from all others before anybody chooses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from specdec.errors import InvalidArgument, NothingAllowed

MODEL = "the model"


def check_kind(scores: Any, like: Tensor, source: object) -> Tensor:
    """What a processor returned for `like[1, V]`, if it is of that kind.

    Raises InvalidArgument with the processor's name for anything else.
    """
    if not isinstance(scores, Tensor):
        found = "None" if scores is None else f"a {type(scores).__name__}"
        raise InvalidArgument(
            f"logits processor {name_of(source)} returned {found}: return the scores, a tensor of "
            f"shape {tuple(like.shape)}"
        )
    if scores.shape != like.shape or not scores.is_floating_point():
        raise InvalidArgument(
            f"logits processor {name_of(source)} returned {scores.dtype} of shape "
            f"{tuple(scores.shape)}: return floating-point scores of shape {tuple(like.shape)}"
        )
    if scores.device != like.device:
        raise InvalidArgument(
            f"logits processor {name_of(source)} returned scores on {scores.device}: return them "
            f"on {like.device}, where they came from"
        )
    return scores


def fault_of(scores: Tensor, samples: bool) -> str | None:
    """Why no token can be chosen by `scores[V]`; None if one can.

    Their largest says it: it is NaN if any is. One score of plus infinity is an argmax, but no law.
    """
    peak = float(scores.max())
    if math.isfinite(peak):
        return None
    if math.isnan(peak):
        return "some scores are NaN"
    if peak < 0:
        return "every token is forbidden: all scores are -inf"
    if not samples and int((scores == torch.inf).sum()) == 1:
        return None
    return "some scores are +inf"


def name_of(source: object) -> str:
    """The name of a processor, for people: of its function, else of its class."""
    own = getattr(source, "__qualname__", None)
    return str(own) if isinstance(own, str) else type(source).__name__


def nothing_allowed(row: int, position: int, fault: str, source: object = MODEL) -> NothingAllowed:
    """The error for a row whose token at `position`, of prompt and output, cannot be chosen."""
    if isinstance(source, str):
        return NothingAllowed(
            f"row {row}, position {position}: {fault}, as {source} gives them. Are its weights "
            "whole, and does its precision hold its numbers?"
        )
    return NothingAllowed(
        f"row {row}, position {position}: {fault} after {name_of(source)}. A processor has to "
        "leave one token at least, with a finite score"
    )
