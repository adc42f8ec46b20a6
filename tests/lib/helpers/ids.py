"""Ids of parametrised tests that are the same in every process: xdist's workers compare them."""

from __future__ import annotations

import re


def short(value: object, most: int = 40) -> str:
    """What a value looks like, without the addresses that functions and objects show."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:most]
