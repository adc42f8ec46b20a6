"""Methods: their options are written down once, and looked up without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from specdec import registry
from specdec.errors import InvalidArgument
from specdec.method import DrafterMethod, ViewMethod, option
from specdec.option_kinds import OneOf, Tokens, Whole

ROOT = Path(__file__).parents[2]
METHODS = {(table, name): entry for table in ("DRAFTERS", "VIEWS")
           for name, entry in getattr(registry, table).items()}  # fmt: skip


def test_looking_at_all_options_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from specdec import registry; assert registry.holders(); "
        "late = {'torch', 'transformers', 'numpy', 'numba'} & set(sys.modules); "
        "sys.exit(f'imported too early: {late}' if late else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("which", METHODS, ids="-".join)
def test_a_method_is_a_frozen_dataclass_of_options(which: tuple[str, str]) -> None:
    table, name = which
    kind = METHODS[which].load()
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert issubclass(kind, ViewMethod if table == "VIEWS" else DrafterMethod)
    assert {f.name for f in fields(kind)} - {"on", "documents", "marks"} == set(kind.options())
    made = METHODS[which].method()
    for option_ in kind.options().values():
        assert option_.help.endswith("."), (name, option_.name)
        assert getattr(made, option_.name) == option_.default
        shown = option_.shown
        if shown and isinstance(option_.default, (int, float, str, tuple)):
            assert option_.kind.parse(shown) == option_.default  # what help shows can be typed
    if table == "VIEWS" and name != "full":
        assert kind.paper and kind.family and kind.keeps


def test_an_option_of_several_methods_is_read_alike() -> None:
    """A name that means one thing here and another there would be wrong in one of them."""
    for name, found in registry.holders().items():
        kinds = {type(one.kind) for one in found.values()}
        assert len(kinds) == 1, (name, kinds)


@dataclass(frozen=True)
class Base(ViewMethod):
    budget: int = option(512, "Tokens.", Tokens())
    bits: int = option(4, "Bits.", OneOf(4, 8))


@dataclass(frozen=True)
class Narrow(Base):
    budget: int = 64
    depth: int | None = option(None, "Depth.", Whole())


def test_another_default_keeps_help_and_kind() -> None:
    assert list(Narrow.options()) == ["budget", "bits", "depth"]
    assert Narrow.options()["budget"] == Base.options()["budget"]._replace(default=64)
    assert (Base().budget, Narrow().budget, Narrow(budget=None).budget) == (512, 64, 64)
    assert Narrow.given({"budget": 5, "else": 1}) == Narrow(budget=5)
    for given, message in (({"budget": -1}, "budget=-1 is not a number of tokens"),
                           ({"bits": 5}, "bits=5: give 4 or 8"),
                           ({"bits": True}, "bits=True"),
                           ({"depth": 0}, "depth=0 is out of range: give 1 to 255")):  # fmt: skip
        with pytest.raises(InvalidArgument, match=message):
            Narrow(**given)


def test_no_method_is_forgotten() -> None:
    """Every class of `sparse/methods` and `drafts/methods` that says what it is can be named."""
    named = {entry.path for entry in METHODS.values()}
    for room in ("sparse", "drafts"):
        for path in sorted((ROOT / room / "methods").glob("[!_]*.py")):
            module = import_module(f"specdec.{room}.methods.{path.stem}")
            for name, kind in vars(module).items():
                is_own = isinstance(kind, type) and kind.__module__ == module.__name__
                if is_own and ("keeps" in vars(kind) or "path" in vars(kind)):
                    assert f"{module.__name__}:{name}" in named
