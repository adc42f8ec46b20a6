"""plain: numbers and arrays of NumPy and PyTorch as Python's own."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch

ARRAYS = (np.ndarray, torch.Tensor)


def plain(value: Any) -> Any:
    """Scalars, arrays and tensors as Python numbers and lists, also inside lists, tuples and dicts.

    Whatever holds none of them is returned as it is, the same object.
    """
    if isinstance(value, (np.generic, *ARRAYS)):
        return value.tolist()
    if type(value) is dict:
        made = {plain(key): plain(item) for key, item in value.items()}
        is_same = all(made.get(key) is item for key, item in value.items())
        return value if is_same else made
    if type(value) in (list, tuple):
        items = [plain(item) for item in value]
        is_same = all(new is old for new, old in zip(items, value, strict=True))
        return value if is_same else type(value)(items)
    return value


def make_plain(record: Any) -> None:
    """Make every field of a frozen dataclass plain, in place; for its `__post_init__`."""
    for field in fields(record):
        object.__setattr__(record, field.name, plain(getattr(record, field.name)))
