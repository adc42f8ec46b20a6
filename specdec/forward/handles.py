"""Handles: tensors that name Python objects in a compiled graph, which takes no others."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_numbers = count()
_named: WeakValueDictionary[int, Any] = WeakValueDictionary()


def handle_of(something: Any) -> Tensor:
    """A new handle, `int64[]`, by which `named` finds the object for as long as it lives."""
    number = next(_numbers)
    _named[number] = something
    return torch.tensor(number)


def named(handle: Tensor) -> Any:
    """The object that a handle names. Raises KeyError where it is gone."""
    return _named[int(handle)]
