"""Turns: one pass of a model at a time, whoever runs it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

_turns: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()


def turn_of(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """What a pass of a model holds, so that threads take turns: some rotate by state of their own.

    Models that share modules, as early exits do, share it.
    """
    return _turns.setdefault(model.get_input_embeddings() or model, RLock())
