"""`specdec bench methods`: what it counts, that it goes on where it stopped, what it refuses."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from typer.testing import CliRunner

from specdec import Engine
from specdec.bench.methods import files, study
from specdec.bench.methods.answering import answer, score
from specdec.bench.methods.drafting import drafts_along, own_text
from specdec.bench.methods.kept import Kept
from specdec.bench.methods.shared_context import shared_contexts
from specdec.bench.methods.study import needs_of
from specdec.bench.methods.summary import Line, frontier, per_byte, rank_correlation
from specdec.bench.views.attention_mass import Walk
from specdec.bench.views.drafted import DraftedView, selects_in_passes
from specdec.cli.app import app
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.registry import VIEWS
from specdec.sampling.noise import Noise

from helpers import letters, models

PROMPT = [(7 * i + i * i) % models.VOCAB for i in range(150)]
SMALL = {"budget": 40, "sink": 2, "recent": 4}
NAMES = ["streaming", "quest", "snapkv", "h2o", "ems", "kivi", "gear", "lizard"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(models.build("llama", dtype=torch.float64))


def view_of(engine: Engine, name: str) -> Any:
    known = VIEWS[name].options
    given = {key: value for key, value in SMALL.items() if key in known}
    if "budget" not in known:
        given = {"recent": 16}
    return VIEWS[name].method(given).resolved(engine.target, None).view(engine.target)


def walk_of(engine: Engine, views: dict[str, Any], depth: int = 3) -> Walk:
    return Walk(engine.target, PROMPT, depth, 60, needs_of(views.values()))


def beside(views: dict[str, Any], walk: Walk) -> dict[Any, DraftedView]:
    return {name: DraftedView(view, walk) for name, view in views.items()}


def test_the_own_text_is_what_the_engine_writes(engine: Engine) -> None:
    """Greedy, and drawn with the noise of a seed: as `generate` without drafts has it."""
    walk = walk_of(engine, {})
    for noise, how in ((None, {}), (Noise.of(3, PROMPT), {"temperature": 1.0, "seed": 3})):
        want = engine.generate(PROMPT, drafter="none", max_new_tokens=12, eos_token_id=[], **how)
        assert own_text(walk, 12, noise) == want.token_ids


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_are_fed_at_once_are_read_as_one_by_one(engine: Engine, name: str) -> None:
    view = view_of(engine, name)
    walk = walk_of(engine, {name: view})
    many, single = DraftedView(view, walk), DraftedView(view, walk)
    first = many.begin()
    assert torch.equal(first, single.begin())
    tokens = [5, 9, 1, 7, 3]
    at_once = many.feed(tokens)
    one_by_one = torch.cat([single.feed([token]) for token in tokens])
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-9, atol=1e-9)
    assert len(many.read) == len(single.read) == 6
    # but for the first pass, whose state of what is left out has just been made
    assert [x.bytes for x in many.read[1:]] == [x.bytes for x in single.read[1:]]
    assert selects_in_passes(view) == (name == "quest")
    many.take_back(3)
    torch.testing.assert_close(many.feed(tokens[2:]), at_once[2:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_kept_is_what_the_engine_keeps(engine: Engine, sampled: bool) -> None:
    """Drafts from the same places of the same text, by a run of the engine itself."""
    views = {name: view_of(engine, name) for name in ("streaming", "quest", "snapkv", "gear")}
    walk, noise = walk_of(engine, views), Noise.of(0, PROMPT) if sampled else None
    kept = Kept(walk)
    walk.along(own_text(walk, 20, noise))
    found = drafts_along(walk, kept, beside(views, walk), noise, rounds=1)
    how = {"temperature": 1.0, "seed": 0} if sampled else {}
    for name, cell in found.items():
        options = {k: v for k, v in SMALL.items() if k in VIEWS[name].options}
        options = options if "budget" in options else {"recent": 16}
        out = engine.generate(
            PROMPT, drafter=name, num_draft_tokens=3, min_draft_prob=0.0, max_new_tokens=8,
            eos_token_id=[], **options, **how,
        )  # fmt: skip
        assert cell["accepted"] == [out.stats.accepted[0]], name
        reads = out.stats.reads[name].each[:3]
        assert cell["bytes"] == reads[0].full_bytes
        share = sum(x.bytes for x in reads) / sum(x.full_bytes for x in reads)
        assert cell["read"] == pytest.approx(share, abs=1e-4)


def test_a_walk_goes_another_way_from_the_same_place(engine: Engine) -> None:
    """Nothing of the first way is left, in views that have gone it either."""
    views = {name: view_of(engine, name) for name in ("quest", "h2o", "kivi")}
    walk = walk_of(engine, views)
    kept, texts = Kept(walk), [own_text(walk, 16, Noise.of(seed, PROMPT)) for seed in (1, 2)]
    notes, found = deepcopy(dict(kept.notes)), []
    drafted = beside(views, walk)
    for text in (texts[0], texts[1], texts[0]):
        walk.along(text)
        kept.notes.clear()
        kept.notes.update(deepcopy(notes))
        cells = drafts_along(walk, kept, drafted, None, rounds=4)
        found.append({n: (c["accepted"], c["overlap"], c["read"]) for n, c in cells.items()})
        assert walk.row.tokens == PROMPT + text
    assert found[0] == found[2] != found[1]


def test_bytes_beside_the_cache(engine: Engine) -> None:
    """Each is charged with what it asks for: an index, statistics, copies, entries; a window with
    its choice alone."""
    views = {name: view_of(engine, name) for name in ("streaming", "quest", "h2o", "kivi", "ems")}
    walk = walk_of(engine, views)
    kept = Kept(walk)
    walk.along(own_text(walk, 8, None))
    cells = drafts_along(walk, kept, beside(views, walk), None, rounds=2)
    layers, heads, dim = engine.target.num_layers, engine.target.kv_shape.kv_heads, 8
    held = {name: cell["kept"] * cell["bytes"] for name, cell in cells.items()}
    pages = 150 // 16
    index = pages * heads * 2 * dim * 8
    quest = view_of(engine, "quest")
    choosing = [i for i in range(layers) if quest.sharing.anchor_of(i) is not None]
    assert held["quest"] >= 0.99 * index * len(choosing)
    assert held["h2o"] >= 0.99 * 150 * heads * 4 * layers
    assert held["kivi"] > 0.1 * cells["kivi"]["bytes"]
    assert held["streaming"] < min(held["h2o"], held["kivi"], held["ems"])


def test_answers_are_those_of_plain_steps(engine: Engine) -> None:
    """Whether the full cache's answer is known or not; the full view agrees with itself."""
    view = view_of(engine, "snapkv")
    walk = walk_of(engine, {"snapkv": view})
    question, ends = [3, 8, 8, 1], {2}
    full = answer(DraftedView(FullView(), walk), question, ends)
    plain = engine.generate(PROMPT + question, drafter="none", max_new_tokens=32, eos_token_id=[2])
    assert full.tokens == plain.token_ids
    again = answer(DraftedView(FullView(), walk, is_lossy=True), question, ends, full.tokens)
    assert again.tokens == full.tokens and again.agreed == 1.0
    alone = answer(DraftedView(view, walk, is_lossy=True), question, ends)
    beside = answer(DraftedView(view, walk, is_lossy=True), question, ends, full.tokens)
    assert alone.tokens == beside.tokens and beside.agreed < 1.0


class Words:
    """A tokenizer of words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        parts = text.replace("\n", " \n ").split(" ")
        self.words += [part for part in dict.fromkeys(parts) if part not in self.words]
        return {"input_ids": [self.words.index(part) for part in parts if part]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(self.words[i] for i in ids)


def test_shared_contexts_hold_their_answers() -> None:
    tokenizer = Words()
    made = shared_contexts(tokenizer, 300)
    assert made == shared_contexts(tokenizer, 300) != shared_contexts(tokenizer, 300, seed=1)
    for one in made:
        assert 280 < len(one.context) <= 300
        text = tokenizer.decode(one.context)
        for question, wanted in zip(one.questions, one.answers, strict=True):
            assert text.count(wanted) >= 1 and wanted not in tokenizer.decode(question)
        asked = study.asked(one, tokenizer)
        assert [x.name.split(", ")[1] for x in asked] == [
            "question 1", "question 2", "question 3", "turn 2", "turn 3",
        ]  # fmt: skip
        assert asked[3].question[: len(one.questions[0])] == one.questions[0]
        assert asked[4].question[-len(one.questions[2]) :] == one.questions[2]
        assert one.answers[0] in tokenizer.decode(asked[3].question)
    assert score(tokenizer, [tokenizer.words.index(made[0].answers[0] + ".")], ["nothing"]) == 0.0


def test_ranks_and_frontier() -> None:
    """Against SciPy, ties included; and the points that nothing beats."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y = torch.randint(0, 6, (2, 9), generator=generator).tolist()
        assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, nan_ok=True)

    def line(name: str, read: float, kept: float) -> Line:
        return Line(name, 10, {"greedy": kept, "sampled": kept}, {}, [], read, 0.1, 0, 1, 0, 0, 0)

    def drafted(moved: float, rounds: list[int]) -> Line:
        return Line("a", 10, {}, {}, [], moved, 0.0, 0, 1, 0, 0, 0, (), rounds, 8)

    assert drafted(0.0, [8, 8]).gain == (9.0, 8)  # for nothing
    assert drafted(1.0, [8, 8]).gain == (1.0, 8)  # the target itself
    assert drafted(0.1, [1, 1]).gain == (2 / 1.1, 1)  # nothing is kept of a longer one
    assert drafted(0.25, [8, 0]).gain == (pytest.approx(5 / 3), 8)
    assert drafted(0.25, [8, 0]).doubt == pytest.approx(0.5)  # of two chains, all or nothing
    assert per_byte([drafted(0.3, [4]), drafted(0.1, [4])])[0].moved == 0.1
    known = [line("a", 0.2, 0.5), line("b", 0.1, 0.4), line("c", 0.3, 0.5), line("d", 0.4, 0.9)]
    assert [x.method for x in frontier(known)] == ["b", "a", "d"]


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return letters.save(tmp_path_factory.mktemp("methods") / "letters")


def run(folder: str, *arguments: str) -> Any:
    start = ["bench", "methods", "-m", folder, "--contexts", "160", "--rounds", "2", "--depth", "3"]
    more = ["--task-context", "160", "--tasks", "shared", "--limit", "1", "--budgets", "75"]
    return CliRunner().invoke(app, [*start, *more, *arguments])


def test_the_command_goes_on_where_it_stopped(folder: str, tmp_path: Path) -> None:
    first = run(folder, "--names", "streaming,kivi", "--out", str(tmp_path))
    assert first.exit_code == 0, first.output
    assert {x.name for x in tmp_path.iterdir()} == {"methods.json", "methods.md", "methods.png"}
    before = json.loads((tmp_path / "methods.json").read_text())
    cell = before["cells"]["streaming | 75 % | code @ 160"]
    assert len(cell["greedy"]["accepted"]) == 2 and len(cell["sampled"]["overlap"]) == 3
    assert before["cells"]["full | - | key-value, turn 3"]["agreed"] == 1.0
    marked = {**before, "cells": {**before["cells"]}}
    marked["cells"]["kivi | - | code @ 160"] = {"greedy": cell["greedy"], "sampled": cell["greedy"]}
    files.write(marked, tmp_path)
    second = run(folder, "--names", "kivi,quest", "--out", str(tmp_path), "--json")
    assert second.exit_code == 0, second.output
    after = json.loads(second.stdout)
    assert after == json.loads((tmp_path / "methods.json").read_text())
    assert after["cells"]["kivi | - | code @ 160"]["greedy"] == cell["greedy"], "not done again"
    assert "quest | 75 % | code @ 160" in after["cells"]
    assert len(after["cells"]) == len(before["cells"]) + 6
    table = (tmp_path / "methods.md").read_text()
    assert "| `quest` | selector | 75 % |" in table and "rank correlation" in table


def test_what_refuses_a_text_says_so_in_the_table(folder: str, tmp_path: Path) -> None:
    """A budget below a method's fixed parts: the others are measured."""
    result = run(folder, "--names", "streaming,quest", "--budgets", "40", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    cells = files.read(tmp_path)["cells"]
    assert "budget=64 is below" in cells["quest | 40 % | code @ 160"]["error"]
    assert "## Refused" in (tmp_path / "methods.md").read_text()


def test_tasks_alone(folder: str, tmp_path: Path) -> None:
    """No contexts are no drafts, and no plot of them; options of a name are its method's."""
    names = "gear:kv_bits=2,gear:kv_bits=8"
    result = run(folder, "--names", names, "--contexts", "", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    cells = files.read(tmp_path)["cells"]
    some = [cells[f"{name} | - | key-value, turn 2"] for name in names.split(",")]
    assert some[0]["read"] < some[1]["read"]
    assert f"| `{names.split(',')[1]}` | codec | - |" in (tmp_path / "methods.md").read_text()
    assert {name.split(" | ")[2].split(",")[0] for name in cells} == {"key-value"}
    assert {x.name for x in tmp_path.iterdir()} == {"methods.json", "methods.md"}


def test_one_method_with_other_options_has_copies_of_its_own(folder: str, tmp_path: Path) -> None:
    names = "gear:kv_bits=2,gear:kv_bits=8"
    result = run(folder, "--names", names, "--tasks", "", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    cells = files.read(tmp_path)["cells"]
    read = [cells[f"{name} | - | code @ 160"]["greedy"]["read"] for name in names.split(",")]
    assert read[0] < 0.9 * read[1]


def test_mistakes_are_explained(folder: str, tmp_path: Path) -> None:
    for arguments, message in [
        (("--names", "quests"), "did you mean 'quest'"),
        (("--names", "cacheblend"), "unknown view 'cacheblend'"),
        (("--names", "kivi:bits=2"), "view 'kivi' has"),
        (("--names", "quest:budget=9"), "view 'quest' has"),
        (("--names", "kivi:2"), "write options as name:option=value"),
        (("--budgets", "0"), "give whole numbers from 1 to 100"),
        (("--budgets", "many"), "give whole numbers"),
        (("--tasks", "scbench"), "give ruler, shared, or nothing"),
        (("--contexts", "1000000"), "--contexts '1000000': give whole numbers from 1 to"),
    ]:
        result = run(folder, *arguments)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())
    (tmp_path / "methods.json").write_text("[]")
    result = run(folder, "--names", "streaming", "--out", str(tmp_path))
    assert result.exit_code == 2 and "is no result of" in result.output
    with pytest.raises(InvalidArgument, match="give another folder"):
        other = study.Study(Engine(models.build("llama")), [], [10], [60], {}, [], [])
        other.take_up({"schema": 1, "model": "another", "cells": {}})
