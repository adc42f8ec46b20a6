"""docs/: ways of a call, rooms, diffs and links are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
LINE = re.compile(r"^(?P<indent> *)(?P<far>~ )?(?P<module>specdec[.\w]*):(?P<name>[.\w]+)")

Call = tuple[str, str, str | None]  # module, name, the module of who uses it


def calls(text: str) -> list[Call]:
    """The calls of all blocks. What stands behind a `~` is called by somebody else's code."""
    found: list[Call] = []
    for block in re.findall(r"^```calls\n(.*?)^```", text, re.M | re.S):
        above: list[tuple[int, str]] = []
        for line in block.splitlines():
            match = LINE.match(line)
            assert match is not None, f"no call: {line!r}"
            indent = len(match["indent"])
            above = [(depth, module) for depth, module in above if depth < indent]
            user = above[-1][1] if above and not match["far"] else None
            found.append((match["module"], match["name"], user))
            above.append((indent, match["module"]))
    return found


def fault(module: str, name: str, user: str | None) -> str | None:
    """What is wrong with a call; None where it is there, and named by who uses it."""
    try:
        found: object = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        return f"{module}:{name} is not there: {error}"
    if user is None:
        return None
    path = import_module(user).__file__
    assert path is not None
    used = {name.split(".")[0], name.split(".")[-1]}
    if used & set(re.findall(r"\w+", Path(path).read_text("utf-8"))):
        return None
    return f"{user} does not use {module}:{name}"


def test_the_way_of_a_call_is_there() -> None:
    found = calls(DESIGN)
    assert len(found) > 30
    assert [problem for call in found if (problem := fault(*call))] == []


@pytest.mark.parametrize(
    "call",
    [
        ("specdec.forward.attend", "attend_somewhere", None),
        ("specdec.forward.nowhere", "attend", None),
        ("specdec.decoding.scheduler", "Scheduler.admit", "specdec.forward.plan"),
    ],
)
def test_the_test_sees_what_is_not_there(call: Call) -> None:
    assert fault(*call) is not None


def glossary(text: str) -> list[tuple[str, str, str]]:
    """Its lines: our word, theirs, what it is."""
    table = text.split("\n## 7. Words\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [(ours.strip(), theirs.strip(), what.strip()) for ours, theirs, what in lines[1:]]


def code_names() -> set[str]:
    """Modules, and what stands in them: classes with their members, functions, other names."""
    found = set()
    for room in ("specdec", "sparse", "drafts", "kernels"):
        for path in (ROOT / room).rglob("*.py"):
            module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found.add(module if room == "specdec" else f"specdec.{module}")
            for node in ast.parse(path.read_text("utf-8")).body:
                found |= set(names(node))
    return found


def names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        yield node.name
        yield from (f"{node.name}.{inner}" for part in node.body for inner in names(part))
    elif isinstance(node, ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.AnnAssign | ast.Assign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_words_that_are_code_are_there() -> None:
    """And every word has that of the papers beside it."""
    lines, known = glossary(DESIGN), code_names()
    words = [word for ours, _, _ in lines for word in re.findall(r"`([^`]+)`", ours)]
    assert len(words) > 40
    assert [word for word in words if word not in known] == []
    assert all(theirs and what for _, theirs, what in lines)


@pytest.mark.parametrize("word", ["Selector", "Row.stability", "specdec.sampling.dice"])
def test_a_word_that_is_not_there_would_be_seen(word: str) -> None:
    assert word not in code_names()


def test_rooms_of_the_core_are_listed_from_the_ground_up() -> None:
    """In the order that test_floors.py holds the imports to."""
    floors = (Path(__file__).parent / "test_floors.py").read_text("utf-8")
    order = re.search(r"^CORE = \((.*?)^\)", floors, re.M | re.S)
    assert order is not None
    rooms = re.findall(r'"(\w+)"', order[1])
    listed = re.findall(r"^\| `(\w+)/` \|", DESIGN, re.M)
    assert ["ground", *listed[:-1], "face", listed[-1]] == rooms
    folders = {path.parent.name for path in (ROOT / "specdec").glob("*/__init__.py")}
    assert set(listed) | {"cli"} == folders


def hunks(text: str) -> list[tuple[str, str]]:
    """What each hunk of a page's diffs leaves in its file: the file's name and lines of it."""
    found = []
    for block in re.findall(r"^```diff\n(.*?)^```", text, re.M | re.S):
        for part in re.split(r"^\+\+\+ b/", block, flags=re.M)[1:]:
            name, *rest = re.split(r"\n@@.*\n", part)
            found += [(name, "".join(x[1:] for x in hunk.splitlines(True))) for hunk in rest]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_diffs_stand_in_the_code(page: Path) -> None:
    found = hunks(page.read_text("utf-8"))
    assert found or page.parent.name != "extending"
    for name, lines in found:
        assert lines.rstrip("\n") in (ROOT / name).read_text("utf-8"), (name, lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    links = [link for link in links if link and "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
