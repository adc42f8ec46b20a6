"""Output goes where it was asked to go: whole, and over nothing of others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specdec import Engine
from specdec.bench.report import files
from specdec.cli.command import _apart
from specdec.drafts.longspec import checkpoint
from specdec.drafts.longspec.checkpoint import Checkpoint
from specdec.drafts.longspec.training.lessons import Lessons
from specdec.drafts.longspec.training.out_folder import check_out
from specdec.drafts.longspec.training.progress import FILE, Progress
from specdec.drafts.longspec.training.teacher import Lesson
from specdec.errors import InvalidArgument, WeightsError
from specdec.files import replacing, write_text

from helpers import longspec_models, models
from helpers.command import run

pytestmark = pytest.mark.fast


def test_a_file_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "result.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(path.parent) == ["result.json"]
    link = tmp_path / "link.json"
    link.symlink_to(path)
    write_text(link, "new")
    assert link.is_symlink() and path.read_text() == "new"
    write_text(Path("/dev/null"), "x")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", FILE, "log.jsonl"])
def test_training_writes_over_nothing_of_others(tmp_path, monkeypatch, name):
    """Found out before a model is loaded."""
    (tmp_path / name).write_text('{"model_type": "llama"}')
    with pytest.raises(InvalidArgument, match=f"{name}"):
        check_out(tmp_path)
    monkeypatch.setattr("specdec.drafts.longspec.training.run.load", None)
    done = run("train-drafter", "--model", "x", "--data", str(tmp_path), "--out", str(tmp_path))
    assert done.exit_code == 2 and name in done.output
    done = run("train-drafter", "--model", "x", "--out", str(tmp_path / name))
    assert done.exit_code == 2 and "is a file" in done.output
    assert (tmp_path / name).read_text() == '{"model_type": "llama"}'


@pytest.fixture(scope="module")
def made():
    return longspec_models.checkpoint(Engine(models.build("llama")).target)


def test_a_run_is_taken_up(made, tmp_path):
    check_out(tmp_path / "new")
    check_out(tmp_path)
    made.save(tmp_path)
    Progress(1, 1.0, 0, {}, {"x": torch.zeros(2)}).save(tmp_path)
    (tmp_path / "log.jsonl").write_text("{}\n")
    check_out(tmp_path)
    made.save(tmp_path)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:60])
    with pytest.raises(InvalidArgument, match="damaged"):
        Progress.load(tmp_path, {})


def test_a_checkpoint_cut_short_is_one_of_the_two(made, tmp_path, monkeypatch):
    """Between the swaps of its two files the weights say what they are."""
    made.save(tmp_path)
    other = Checkpoint(made.sizes, made.weights, torch.tensor([1, 2]), made.target, {"steps": 9})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_text", None)
        with pytest.raises(TypeError):
            other.save(tmp_path)
    found = Checkpoint.load(tmp_path)
    assert found.training == {"steps": 9} and found.ids.tolist() == [1, 2]


def test_a_checkpoint_of_other_sizes_is_damaged(made, tmp_path):
    made.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if weights[name].dim() == 2)
    save_file({**weights, name: weights[name][:1].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="does not fit its config"):
        Checkpoint.load(tmp_path)


class Teacher:
    """One that teaches the same each time."""

    def __init__(self):
        self.target, self.layer = Engine(models.build("llama")).target, 1


def lessons_of(teacher, folder, **changes):
    class Tokenizer:
        eos_token_id = 0

    settings = {"seed": 0, "rows": 2, "length": 8, "long": 16, **changes}
    found = Lessons(teacher, Tokenizer(), None, folder=folder, **settings)
    found.asked = []

    def make(number):
        found.asked.append(number)
        return Lesson(*(torch.full((1,), float(number)) for _ in range(8)))

    found.make = make
    return found


def test_lessons_are_those_of_this_run(tmp_path):
    """Kept ones are read again, ones of other settings made anew, and a foreign file is refused."""
    teacher = Teacher()
    lessons = lessons_of(teacher, tmp_path)
    lessons(3)
    again = lessons_of(teacher, tmp_path)
    assert again(3).k.tolist() == [3.0] and not again.asked
    other = lessons_of(teacher, tmp_path, seed=1)
    other(3)
    assert other.asked == [3]
    save_file({"mine": torch.zeros(1)}, tmp_path / "00004.safetensors")
    with pytest.raises(InvalidArgument, match="is no lesson"):
        other(4)
    other.forget(4)
    other.forget(3)
    assert os.listdir(tmp_path) == ["00004.safetensors"]


def test_a_measurement_writes_over_nothing_of_others(tmp_path):
    document = {"schema": 1, "workloads": []}
    cases = ("report.html", "mine"), ("result.json", "[]"), ("result.json", "{}")
    for number, (name, text) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(InvalidArgument, match=f"holds {name}"):
            files.check_free(folder)
        with pytest.raises(InvalidArgument):
            files.write(document, folder)
        assert (folder / name).read_text() == text
        done = run("bench", "run", "--model", "no-such-model", "--out", str(folder))
        assert done.exit_code == 2 and name in done.output
    (tmp_path / "result.json").write_text(json.dumps(document))
    files.check_free(tmp_path)


def test_several_values_behind_one_option(monkeypatch, tmp_path):
    """As documented: --data A B. Where an argument could be meant, nothing is guessed."""
    assert _apart(["--data", "a", "b", "--out", "o", "--data=c", "d"], {"--data"}) == [
        "--data", "a", "--data", "b", "--out", "o", "--data=c", "--data", "d",
    ]  # fmt: skip
    seen = []
    training = "specdec.drafts.longspec.training"
    for name in ("run.train", "measure.measure"):
        monkeypatch.setattr(f"{training}.{name}", lambda *a, **k: seen.append(a))
    data = ["--data", "a", "b", "c"]
    done = run("train-drafter", "--model", "t", *data, "--out", "o")
    assert done.exit_code == 0, done.output
    done = run("measure-drafter", "--out", str(tmp_path / "o"), *data)
    assert done.exit_code == 0, done.output
    paths = [Path("a"), Path("b"), Path("c")]
    assert all(paths in given for given in seen) and len(seen) == 2
    monkeypatch.setattr(f"{training}.run.train", lambda *a, **k: 2.5)
    done = run("train-drafter", "--model", "t", "--out", "o", "--json")
    assert json.loads(done.stdout) == {"out": "o", "acceptance_length": 2.5}


def test_data_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("specdec.drafts.longspec.training.run.load", None)
    monkeypatch.setattr("specdec.drafts.longspec.training.measure.Engine", None)
    missing, there = tmp_path / "missing", tmp_path / "there"
    there.mkdir()
    for command in (["train-drafter", "--model", "x"], ["measure-drafter"]):
        done = run(*command, "--data", str(there), str(missing), "--out", str(tmp_path / "o"))
        assert done.exit_code == 2 and f"{missing}" in done.output.replace("\n", "")
        done = run(*command, "--data", str(there), "--out", str(tmp_path / "o"))
        assert done.exit_code == 2 and "no text" in done.output
