"""The trainer: it learns, it can be killed at the worst moment, and it repeats itself."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from specdec import Engine
from specdec.decoding.options import DraftOptions
from specdec.drafts.longspec.checkpoint import sizes_for
from specdec.drafts.longspec.head_rows import head_rows
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.longspec.training.corpus import Corpus, gather, split
from specdec.drafts.longspec.training.objective import Frozen
from specdec.drafts.longspec.training.progress import FILE, Progress
from specdec.drafts.longspec.training.replay import Written, replay
from specdec.drafts.longspec.training.settings import Settings
from specdec.drafts.longspec.training.start import TextParts, new_block, solve_start
from specdec.drafts.longspec.training.teacher import ANCHORS, Teacher, anchor_offset
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.model.target import Target

from helpers import models, train_and_die

WORDS = [f"w{i}" for i in range(models.VOCAB)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model and a tokenizer of forty words."""
    folder = tmp_path_factory.mktemp("model")
    lm = models.build("llama", dtype=torch.float32)
    lm.generation_config.eos_token_id = 3
    lm.save_pretrained(folder)
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    for number in range(12):
        words = [rng.choice(WORDS) for _ in range(600)]
        lines = "\n".join(" ".join(words[i : i + 9]) for i in range(0, len(words), 9))
        (folder / f"text{number}{'.py' if number % 3 else '.md'}").write_text(lines)
    return folder


def launch(model, data, out, die_at=0):
    """Train under `accelerate launch` in two processes; returns the exit status."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", str(port), train_and_die.__file__, model, data, out, die_at,
    ]  # fmt: skip
    helpers = Path(__file__).parents[1] / "lib"
    done = subprocess.run(
        [str(part) for part in command], cwd=helpers, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(helpers), "OMP_NUM_THREADS": "1",
                          "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    if not die_at:
        assert done.returncode == 0, done.stderr[-3000:]
    return done.returncode


@pytest.mark.slow
def test_two_processes_learn_and_resume_after_a_kill(model, data, tmp_path):
    """Killed while it writes a checkpoint, then resumed: the weights of an uninterrupted run."""
    launch(model, data, tmp_path / "whole")
    log = [json.loads(x) for x in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(7))
    assert log[-1]["held_out_loss"] < log[0]["held_out_loss"]
    assert log[-1]["top4"] > log[0]["top4"]

    assert launch(model, data, tmp_path / "cut", die_at=4) != 0
    assert list((tmp_path / "cut").glob(".unfinished-*"))  # it did die in the middle
    launch(model, data, tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / FILE) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and len(whole) > 30
    for name, x in whole.items():
        assert torch.equal(x, cut[name]), name
    steps = [json.loads(x)["step"] for x in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert steps == list(range(7))  # nothing was done twice but what was lost
    assert not list((tmp_path / "cut").glob(".unfinished-*"))

    engine = Engine.from_pretrained(str(model), dtype="float64")
    prompt = [1, 2, 3, 4, 5]
    plain = engine.generate([prompt], drafter="none", max_new_tokens=24)[0]
    out = engine.generate(
        [prompt], drafter="longspec", draft_model=tmp_path / "cut", max_new_tokens=24
    )[0]
    assert out.token_ids == plain.token_ids and out.stats.num_draft_tokens > 0


def test_other_settings_do_not_resume(tmp_path):
    one = Settings(steps=5).as_dict()
    Progress(3, 1.2, 0, one, {"x": torch.arange(3)}).save(tmp_path)
    again = Progress.load(tmp_path, Settings(steps=9).as_dict())
    assert again.step == 3 and again.tensors["x"].tolist() == [0, 1, 2]
    with pytest.raises(InvalidArgument, match=r"other settings \(seed\)"):
        Progress.load(tmp_path, Settings(steps=5, seed=1).as_dict())


@pytest.mark.parametrize("bad", [{"steps": 0}, {"rate": 2.0}, {"length": 5}, {"draft_vocab": -1}])
def test_settings_are_checked(bad):
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        Settings(**bad)


def test_files_are_split_by_name(data, tmp_path):
    train, held_out = split(gather([data]))
    files = [
        {p for folder in c.folders.values() for g in folder for p in g} for c in (train, held_out)
    ]
    assert files[0] and files[1] and not files[0] & files[1]
    assert {p.name for p in files[0] | files[1]} == {p.name for p in data.iterdir()}
    with pytest.raises(InvalidArgument, match="one file"):
        split(gather([data / "text0.md"]))
    with pytest.raises(InvalidArgument, match="no such file"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(InvalidArgument, match="no text"):
        gather([tmp_path])


@pytest.fixture(scope="module")
def teacher(model):
    target = Target(Engine.from_pretrained(str(model), dtype="float64").model)
    return Teacher(target, layer=1)


@pytest.mark.parametrize("offset", [0, 100])
def test_lessons_hold_what_the_target_knows(teacher, offset):
    """KV, hidden states and probabilities of a stepwise lesson are those of one plain pass."""
    starts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    feeds = [iter([start, *[[11, 12]] * 20]).__next__ for start in starts]
    lesson = teacher.continued(
        feeds, 16, offset, torch.tensor([0.0, 0.0, 1.0]), random.Random(0), stop={3}, patience=4
    )
    assert lesson.tokens.shape == (3, 16)
    assert [row[: len(s)] for row, s in zip(lesson.tokens.tolist(), starts)] == starts
    assert lesson.positions[0].tolist() == anchor_offset(torch.arange(16), offset).tolist()
    assert lesson.positions[0, ANCHORS] - lesson.positions[0, ANCHORS - 1] == 1 + offset
    again = teacher.read(lesson.tokens.tolist(), offset)
    for name in ("k", "v", "hidden"):
        torch.testing.assert_close(getattr(lesson, name), getattr(again, name))
    assert torch.equal(lesson.top_ids, again.top_ids)
    head = teacher.target.model.get_output_embeddings().weight
    logp = (lesson.hidden @ head.T).log_softmax(-1).topk(32)
    assert torch.equal(logp.indices.int(), lesson.top_ids)
    torch.testing.assert_close(logp.values, lesson.top_logp.double(), rtol=0, atol=4e-3)
    # greedy rows went on with the most probable token wherever they were not fed
    for row in (0, 1):
        text, best = lesson.tokens[row].tolist(), lesson.top_ids[row, :, 0].tolist()
        at = len(starts[row])
        assert text[at] == best[at - 1]


@torch.no_grad()
def test_the_start_asks_what_the_layer_asks(teacher):
    """Solved queries are nearer to the target's own than copied ones."""
    target = teacher.target
    with pytest.raises(InvalidArgument, match="kv_layer=9"):
        sizes_for(target, kv_layer=9)
    assert sizes_for(target, kv_layer=0).kv_layer == 0
    sizes = sizes_for(target, mlp_size=16, kv_layer=teacher.layer)
    lesson = teacher.read(torch.randint(3, 40, (24, 40)).tolist(), 0)
    ids = torch.arange(target.vocab_size)
    rotary = Rotary(target, teacher.layer)
    frozen = Frozen(target.model.get_input_embeddings(), head_rows(target, ids), ids, ids, rotary)
    wrong = []
    for is_solved in (False, True):
        block = new_block(target, sizes, seed=0)
        p = TextParts(block, frozen, lesson)
        if is_solved:
            solve_start(block, [p])
        x, before = p.inputs()
        h = block.start(x, before) + block.newest(p.state(1), 1) + block.self_o(p.near())
        q = block.cross_q(block.cross_norm(h)) + block.cross_token(block.self_norm(x))
        wrong.append(float((q - p.queries)[:, 8:].square().mean()))
    assert wrong[1] < 0.5 * wrong[0]


def test_replay_gives_the_figures_of_generation(model):
    """Acceptance counted on a written text is that of generating it."""
    from helpers import longspec_models

    engine = Engine.from_pretrained(str(model), dtype="float64")
    prompt, options = [1, 2, 3, 4, 5, 6], {"draft_nodes": 9, "num_draft_tokens": 5}
    out = engine.generate(
        [prompt], drafter=longspec_models.untrained, max_new_tokens=60, eos_token_id=[], **options
    )[0]
    drafter = longspec_models.untrained(engine.target, DraftOptions(**options))
    text = Written(engine.target, [*prompt, *out.token_ids])
    gain = replay(drafter, text, len(prompt))
    assert (gain.rounds, gain.tokens) == (out.stats.num_spec_steps, len(out.token_ids))
    assert sum(gain.positions) == out.stats.num_accepted_draft_tokens > 0
    assert FullView.lossless and Corpus([]).kinds == []
