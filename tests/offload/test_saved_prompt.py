"""A prompt that was read once: the same text, and nothing else than this model's."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from specdec import Engine
from specdec.errors import InvalidArgument, OutOfMemory, WeightsError
from specdec.offload import saved_prompt
from specdec.offload.kv_memory import KVMemory
from specdec.offload.saved_prompt import SavedPrompt
from specdec.offload.split import Sizes

from helpers import hostile, models
from helpers.matrix import crossed

BOOK = [(7 * i * i + i) % models.VOCAB for i in range(90)]
QUESTIONS = [BOOK + [3, 4, 5], BOOK + [9]]
SMALL = Sizes(window=4, block=3, room=1024, staging_bytes=700)


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture
def folder(engine, tmp_path):
    engine.target.kv_memory = KVMemory()
    engine.save_prompt(BOOK, tmp_path / "book")
    return tmp_path / "book"


@crossed(tier=["device", "disk"], drafter=["none", "ngram", "snapkv"], samples=[1, 2])
def test_same_text(engine, folder, tier, drafter, samples):
    kwargs = {"max_new_tokens": 20, "temperature": 0.8, "seed": 1, "num_return_sequences": samples}
    want = engine.generate(QUESTIONS, drafter="none", **kwargs)
    engine.target.kv_memory = KVMemory(tier, sizes=SMALL)
    options = {"budget": 32, "sink": 4, "recent": 4} if drafter == "snapkv" else {}
    out = engine.generate(QUESTIONS, drafter=drafter, saved_prompt=folder, **options, **kwargs)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]


def test_it_is_not_read_again(engine, folder, monkeypatch):
    """Only what the folder does not hold goes through the model."""
    read = []
    prefill = type(engine.target).prefill
    monkeypatch.setattr(
        type(engine.target), "prefill",
        lambda self, store, view, row, tokens, *more: (
            read.extend(tokens), prefill(self, store, view, row, tokens, *more)
        ),
    )  # fmt: skip
    engine.generate(QUESTIONS[0], saved_prompt=folder, drafter="none", max_new_tokens=2)
    assert read == QUESTIONS[0][len(BOOK) : -1]


def test_saved_from_tiers(engine, tmp_path):
    """What is saved does not depend on where it lay."""
    for name, memory in (("a", KVMemory("device")), ("b", KVMemory("disk", sizes=SMALL))):
        engine.target.kv_memory = memory
        engine.save_prompt(BOOK, tmp_path / name)
    for layer in range(engine.target.num_layers):
        file = f"layer-{layer:05d}.safetensors"
        one, other = (load_file(tmp_path / name / file) for name in ("a", "b"))
        for part in ("k", "v"):
            assert one[part].shape == (2, len(BOOK), 8)
            assert torch.allclose(one[part], other[part], atol=1e-12)


def test_a_seam_may_be_tokenized_otherwise(engine, folder):
    prompt = [*BOOK[:-2], 1, 1, 1]
    want = engine.generate(prompt, drafter="none", max_new_tokens=8)
    out = engine.generate(prompt, drafter="none", max_new_tokens=8, saved_prompt=folder)
    assert out.token_ids == want.token_ids


def test_another_prompt_is_refused(engine, folder):
    other = [*BOOK[:10], 39, *BOOK[11:]]
    with pytest.raises(InvalidArgument, match="token 10 of 90 differs"):
        engine.generate(other, saved_prompt=folder, max_new_tokens=2)


@pytest.mark.parametrize("saved", [1, 2, 9, saved_prompt.SEAM, saved_prompt.SEAM + 5])
def test_a_short_one_is_not_passed_over_in_silence(engine, tmp_path, saved):
    """Another text is refused, also behind a first token that all texts have in common; half of it
    may be cut otherwise."""
    engine.target.kv_memory = KVMemory()
    folder, half = tmp_path / "short", saved // 2
    engine.save_prompt(BOOK[:saved], folder)
    shared = max(0, saved - min(half, saved_prompt.SEAM))
    for same in {0, min(1, shared - 1), shared - 1}:
        other = [*BOOK[:same], 39, *BOOK[:20]]
        with pytest.raises(InvalidArgument, match=f"token {same} of {saved} differs"):
            engine.generate(other, saved_prompt=folder, max_new_tokens=2)
    prompt = [*BOOK[:shared], 39, 39]
    want = engine.generate(prompt, drafter="none", max_new_tokens=4)
    out = engine.generate(prompt, drafter="none", max_new_tokens=4, saved_prompt=folder)
    assert out.token_ids == want.token_ids


def test_another_model_is_refused(engine, folder):
    for model, message in (
        (models.build("qwen3"), "architecture is 'LlamaForCausalLM' there"),
        (models.build("llama", dtype=torch.float32), "dtype is 'float64' there and 'float32' here"),
        (models.build("llama", seed=1), "other weights of this architecture: logits differ by"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            Engine(model).generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)


def test_what_is_no_saved_prompt_is_left_alone(engine, tmp_path):
    with pytest.raises(InvalidArgument, match="holds no prompt.json"):
        engine.generate(BOOK, saved_prompt=tmp_path, max_new_tokens=2)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgument, match="exists and holds no saved prompt"):
        engine.save_prompt(BOOK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_files_say_so(engine, folder):
    part = folder / "layer-00001.safetensors"
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(WeightsError, match=r"layer-00001.safetensors cannot be read"):
        engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)
    (folder / "prompt.json").write_text("{")
    with pytest.raises(WeightsError, match=r"prompt.json cannot be read"):
        SavedPrompt(folder)


def test_a_failed_save_leaves_the_old_one(engine, folder, monkeypatch):
    """Replaced as a whole, or not at all."""
    calls = []

    def fails(tensors, path):
        calls.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_prompt, "save_file", fails)
    with pytest.raises(OSError, match="No space"):
        engine.save_prompt(BOOK[:10], folder)
    assert calls and SavedPrompt(folder).tokens == BOOK
    assert [path.name for path in folder.parent.iterdir()] == ["book"]


def test_a_folder_with_a_prompt_json_of_others_is_left_alone(engine, tmp_path):
    """A file of that name is in many a project; only what we wrote is replaced."""
    for number, note in enumerate((
        '{"prompt": "You are a pirate."}', "[1, 2]", "not JSON", '{"format": 1}', '{"format": 2}',
        '{"kind": "specdec saved prompt", "format": 2}',
    )):  # fmt: skip
        folder = tmp_path / f"project{number}"
        folder.mkdir()
        (folder / "prompt.json").write_text(note)
        (folder / "src").mkdir()
        (folder / "src" / "thesis.tex").write_text("mine")
        with pytest.raises(InvalidArgument, match="holds no saved prompt"):
            engine.save_prompt(BOOK, folder)
        assert (folder / "prompt.json").read_text() == note
        assert (folder / "src" / "thesis.tex").read_text() == "mine"
        with pytest.raises((InvalidArgument, WeightsError)):
            SavedPrompt(folder)


@pytest.mark.parametrize("foreign", ["notes.txt", "layer-00009.safetensors", "sub/notes.txt"])
def test_what_lies_beside_a_saved_prompt_is_left_alone(engine, folder, foreign):
    path = folder / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(InvalidArgument, match="beside a saved prompt; move it away"):
        engine.save_prompt(BOOK[:10], folder)
    assert path.read_text() == "mine" and SavedPrompt(folder).tokens == BOOK


def test_what_was_put_there_meanwhile_is_left_alone(engine, folder, monkeypatch):
    """Reading takes minutes, and the folder is looked at again before it is swapped."""
    prefill = type(engine.target).prefill

    def slow(self, *args, **kwargs):
        (folder / "notes.txt").write_text("mine")
        return prefill(self, *args, **kwargs)

    monkeypatch.setattr(type(engine.target), "prefill", slow)
    with pytest.raises(InvalidArgument, match="notes.txt beside"):
        engine.save_prompt(BOOK[:10], folder)
    assert (folder / "notes.txt").read_text() == "mine" and SavedPrompt(folder).tokens == BOOK


def test_a_folder_of_an_earlier_release_is_replaced(engine, folder):
    note = json.loads((folder / "prompt.json").read_text())
    old = {"format": 1, "model": note["model"], "tokens": note["tokens"]}
    (folder / "prompt.json").write_text(json.dumps(old))
    with pytest.raises(InvalidArgument, match="format 1, and this release reads 2"):
        SavedPrompt(folder)
    assert engine.save_prompt(BOOK[:10], folder).tokens == BOOK[:10]


def test_a_link_stays_a_link(engine, folder):
    link = folder.with_name("link")
    link.symlink_to(folder, target_is_directory=True)
    engine.save_prompt(BOOK[:10], link)
    assert link.is_symlink() and SavedPrompt(folder).tokens == BOOK[:10]


class Killed(BaseException):
    """Nothing that a handler for errors would catch."""


@pytest.mark.parametrize("point", range(12))
def test_cut_short_at_any_moment_it_is_the_old_or_the_new_one(engine, folder, monkeypatch, point):
    """Every call that changes the disk is the last one once; nothing after it happens."""
    calls = 0

    def breaking(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > point:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(saved_prompt, "save_file", breaking(saved_prompt.save_file))
        patch.setattr(shutil, "rmtree", breaking(shutil.rmtree))
        for name in ("mkdir", "rename", "unlink", "rmdir", "write_text"):
            patch.setattr(Path, name, breaking(getattr(Path, name)))
        if point < 9:
            with pytest.raises(Killed):
                engine.save_prompt(BOOK[:40], folder)
        else:  # the last ones only tidy up
            with suppress(Killed):
                engine.save_prompt(BOOK[:40], folder)
    found = SavedPrompt(folder).tokens
    assert found in (BOOK, BOOK[:40])
    out = engine.generate([*found, 3], saved_prompt=folder, drafter="none", max_new_tokens=4)
    want = engine.generate([*found, 3], drafter="none", max_new_tokens=4)
    assert out.token_ids == want.token_ids
    engine.save_prompt(BOOK[:50], folder)  # what was left aside is in nobody's way
    assert SavedPrompt(folder).tokens == BOOK[:50]


def test_layers_of_another_save_are_refused(engine, folder, tmp_path):
    """A shorter text, one as long, another type, other names: no slot is read unwritten."""
    for number, text in enumerate((BOOK[:60], BOOK[::-1])):
        other = tmp_path / f"other{number}"
        engine.save_prompt(text, other)
        kept = (folder / "layer-00001.safetensors").read_bytes()
        shutil.copy(other / "layer-00001.safetensors", folder)
        with pytest.raises(WeightsError, match=r"layer-00001.safetensors is not (of|what)"):
            engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)
        (folder / "layer-00001.safetensors").write_bytes(kept)
    engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)
    layers = load_file(folder / "layer-00000.safetensors")
    for changed in (
        {name: x.float() for name, x in layers.items()},
        {"k": layers["k"]},
        {name: x[:1].contiguous() for name, x in layers.items()},
        {name: x[0, 0].contiguous() for name, x in layers.items()},
    ):
        saved_prompt.save_file(changed, folder / "layer-00000.safetensors")
        with pytest.raises(WeightsError, match=r"layer-00000.safetensors"):
            engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)


def test_a_changed_note_is_refused(engine, folder):
    note = json.loads((folder / "prompt.json").read_text())
    for change in ({"tokens": BOOK[::-1]}, {"tokens": "abc"}, {"files": {}}):
        (folder / "prompt.json").write_text(json.dumps(note | change))
        with pytest.raises(WeightsError, match="not what was written"):
            engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)


def test_nothing_is_read_where_there_is_no_room(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(type(engine.target), "prefill", None)
    with pytest.raises(OutOfMemory, match="takes .* bytes, and 1,000 are free"):
        engine.save_prompt(BOOK, tmp_path / "book")
    assert not list(tmp_path.iterdir())


def test_files_are_closed(engine, folder, monkeypatch):
    opened, closed = [], []
    safe_open = saved_prompt.safe_open

    @contextmanager
    def watched(path, framework):
        opened.append(path)
        with safe_open(path, framework) as file:
            yield file
        closed.append(path)

    monkeypatch.setattr(saved_prompt, "safe_open", watched)
    engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)
    assert len(opened) == len(closed) == engine.target.num_layers


@pytest.mark.parametrize("folder", [3, "", b"x"])
def test_what_is_no_path_is_refused(engine, folder):
    with pytest.raises(InvalidArgument, match="give a path"):
        engine.save_prompt([1, 2, 3], folder)
    with pytest.raises(InvalidArgument, match="give a path"):
        engine.generate([1, 2, 3], max_new_tokens=2, saved_prompt=folder)
