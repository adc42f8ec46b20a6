"""Modules under their old names: the same modules, with a warning that says the new name."""

from __future__ import annotations

import importlib
import sys

import pytest

from specdec.moved import MOVED

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_under_its_new_one(old: str) -> None:
    sys.modules.pop(f"specdec.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"specdec.{MOVED[old]} now"):
        module = importlib.import_module(f"specdec.{old}")
    assert module is importlib.import_module(f"specdec.{MOVED[old]}")
    assert module.__name__ == f"specdec.{MOVED[old]}"


def test_other_names_are_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("specdec.nothing")
