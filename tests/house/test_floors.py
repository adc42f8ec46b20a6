"""The house: who may import whom, and that every room is packed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "sparse", "drafts", "bench")

# floor -> the floors it may import; the core names rooms above it only as strings in the registry.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "core": {"core", "kernels"},
    "sparse": {"sparse", "core", "kernels"},
    "drafts": {"drafts", "sparse", "core", "kernels"},
    "bench": {"bench", "drafts", "sparse", "core", "kernels"},
    "cli": {"cli", "bench", "drafts", "sparse", "core", "kernels"},
}
KERNEL_PACKAGES = {"torch", "triton", "numba", "llvmlite", "numpy", "specdec"} | set(
    sys.stdlib_module_names
)


def files(floor: str) -> list[Path]:
    core = ROOT / "specdec"
    cli = {*(core / "cli").rglob("*.py"), *core.rglob("__main__.py")}
    if floor == "cli":
        return sorted(cli)
    return sorted(set((ROOT / ("specdec" if floor == "core" else floor)).rglob("*.py")) - cli)


def floor_of(module: str) -> str | None:
    """The floor of a dotted name; None for what is not ours."""
    parts = module.split(".")
    if parts[0] != "specdec":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in (*ROOMS, "cli") else "core"


def imports(source: str) -> set[str]:
    """Every module a source imports, at any depth; `from a import b` counts as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


# The rooms of the core, from the ground up: each may import what stands before it. Files of the
# core's own folder are the ground, but for its face, which stands on all of it.
CORE = (
    "ground", "sampling", "cache", "forward", "model", "vision", "loading", "control", "offload",
    "decoding", "adapter", "face",
    "serving",
)  # fmt: skip
FACE = {"__init__", "engine", "hf", "check", "__main__"}


def core_room(module: str) -> str | None:
    """The room of a module of the core; None for what is not of the core, and the package."""
    parts = module.split(".")
    if parts[0] != "specdec" or len(parts) < 2 or parts[1] in (*ROOMS, "cli"):
        return None
    return parts[1] if parts[1] in CORE else "face" if parts[1] in FACE else "ground"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "specdec" else ("specdec", *parts))


def modules() -> dict[str, Path]:
    """All our modules, by dotted name."""
    return {module_of(path): path for floor in MAY_IMPORT for path in files(floor)}


def climbs(module: str, source: str) -> list[str]:
    """What a module of the core imports from a room of the core that stands above its own."""
    mine = core_room(module)
    if mine is None:
        return []
    rooms = ((other, core_room(other)) for other in imports(source))
    return sorted(
        other for other, room in rooms if room is not None and CORE.index(room) > CORE.index(mine)
    )


def circles(names: set[str], edges: dict[str, set[str]]) -> list[set[str]]:
    """Modules that import each other, directly or not (Tarjan's strongly connected components)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        numbers[name] = lowest[name] = len(numbers)
        stack.append(name)
        for other in edges[name] & names:
            if other not in numbers:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], numbers[other])
        if lowest[name] == numbers[name]:
            circle = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(circle)

    for name in sorted(names):
        if name not in numbers:
            visit(name)
    return found


def trespasses(floor: str, source: str) -> list[str]:
    """The imports of a source that its floor does not allow."""
    return sorted(
        module
        for module in imports(source)
        if (other := floor_of(module)) is not None and other not in MAY_IMPORT[floor]
    )


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_no_floor_imports_one_above(floor: str) -> None:
    assert files(floor), f"no files on floor {floor}"
    for path in files(floor):
        assert trespasses(floor, path.read_text("utf-8")) == [], path


def test_no_room_of_the_core_imports_one_above() -> None:
    seen = set()
    for module, path in modules().items():
        found = {(module, other) for other in climbs(module, path.read_text("utf-8"))}
        seen |= {(a, b) for a, b in found if b in modules()}
    assert seen == set()


def test_the_test_sees_who_climbs() -> None:
    assert climbs("specdec.cache.store", "from specdec.decoding import stats")
    assert climbs("specdec.errors", "import specdec.sampling.tree")
    assert climbs("specdec.decoding.stream", "from specdec.engine import Engine")
    assert not climbs("specdec.decoding.stream", "from specdec.cache.store import KVStore")


def test_no_modules_import_each_other() -> None:
    """Imports for types count, too: a circle says that a type is too big."""
    every = modules()
    edges = {name: imports(path.read_text("utf-8")) for name, path in every.items()}
    assert circles(set(every), edges) == []
    assert circles({"a", "b", "c"}, {"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]


def test_kernels_know_only_tensors() -> None:
    for path in files("kernels"):
        outside = {name.split(".")[0] for name in imports(path.read_text("utf-8"))}
        assert outside <= KERNEL_PACKAGES, path


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_opens_with_a_docstring_and_nothing_else(room: str) -> None:
    body = ast.parse((ROOT / room / "__init__.py").read_text("utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    assert isinstance(body[0].value.value, str)


def test_dotted_strings_stand_in_the_registry_only() -> None:
    for path in files("core"):
        if path.name == "registry.py":
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        names = {s for s in strings if any(s.startswith(f"specdec.{room}.") for room in ROOMS[1:])}
        assert names == set(), path


def test_the_registry_names_what_is_there() -> None:
    from specdec import registry

    for table in (registry.DRAFTERS, registry.VIEWS, registry.ACCEPTANCE):
        for name, entry in table.items():
            assert callable(entry.load()), name


def test_every_folder_with_code_is_packed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packed = set(setuptools["packages"])
    places = {name: path for name, path in setuptools["package-dir"].items()}
    expected = set()
    for floor in MAY_IMPORT:
        for path in files(floor):
            parts = path.parent.relative_to(ROOT).parts
            expected.add(".".join(parts if parts[0] == "specdec" else ("specdec", *parts)))
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"
    assert packed == expected
    assert {f"specdec.{room}" for room in ROOMS} <= set(places) <= packed
    assert all(name == "specdec." + path.replace("/", ".") for name, path in places.items())


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("kernels", "import specdec.cache.store"),
        ("kernels", "from specdec import errors"),
        ("core", "from specdec.drafts.ngram.drafter import NGramDrafter"),
        ("core", "from specdec import sparse"),
        ("core", "def f():\n    import specdec.bench.run"),
        ("sparse", "from specdec.drafts import model"),
        ("drafts", "import specdec.bench"),
        ("bench", "from specdec.cli import console"),
        ("core", "from specdec.cli.app import main"),
    ],
)
def test_the_test_sees_trespassers(floor: str, source: str) -> None:
    assert trespasses(floor, source)


def test_the_test_refuses_relative_imports() -> None:
    with pytest.raises(AssertionError, match="relative"):
        imports("from . import store")
