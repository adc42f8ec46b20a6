"""`specdec generate` with pictures, of a model and a processor in a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from specdec import Engine
from specdec.errors import InvalidArgument

from helpers import processors, vision
from helpers.command import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA with its processor, and a picture and a moving one beside it."""
    path = tmp_path_factory.mktemp("images")
    vision.build("llava", seed=1).float().save_pretrained(path / "model")
    processors.build("llava").save_pretrained(path / "model")
    processors.picture(1).save(path / "one.png")
    several = [processors.picture(seed) for seed in range(12)]
    several[0].save(path / "moving.gif", save_all=True, append_images=several[1:])
    return path


def test_pictures_are_shown(folder: Path) -> None:
    engine = Engine.from_pretrained(folder / "model")
    assert type(engine.processor).__name__ == "LlavaProcessor"
    parts = [{"type": "image", "image": folder / "one.png"}, {"type": "text", "text": "what ?"}]
    wanted = engine.generate([{"role": "user", "content": parts}], max_new_tokens=8)
    shown = ("-m", str(folder / "model"), "--image", str(folder / "one.png"), "-n", "8", "--json")
    result = run("generate", "what ?", *shown)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["token_ids"] == wanted.token_ids
    assert answer["prompt_tokens"] == wanted.num_prompt_tokens > 16
    again = run("generate", "what ?", *shown[:-1], "--image", str(folder / "one.png"))
    assert again.exit_code == 0 and "text equal" in again.stderr, again.output


def test_a_video_is_shown_by_frames(folder: Path) -> None:
    result = run(
        "generate", "what ?", "-m", str(folder / "model"), "--video", str(folder / "moving.gif"),
        "-n", "4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "LlavaProcessor reads no videos here: 8 frames as images" in result.stderr


def test_a_chat_about_pictures(folder: Path) -> None:
    """A picture goes with the message behind it, and the tower sees it once."""
    one, no = folder / "one.png", folder / "nothing.png"
    lines = f"/image {no}\n/image {one}\nwhat ?\nand that ?\n"
    model = ("-m", str(folder / "model"), "-n", "6", "--json")
    result = run("chat", *model, stdin=lines)
    assert result.exit_code == 0, result.output
    assert f"there is no file {no}" in " ".join(result.stderr.split())
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == 2
    engine = Engine.from_pretrained(folder / "model")
    chat = engine.chat(max_new_tokens=6, temperature=0.0)
    shown = [{"type": "image", "image": one}, {"type": "text", "text": "what ?"}]
    wanted = [chat.send(shown).token_ids, chat.send("and that ?").token_ids]
    assert [x["token_ids"] for x in answers] == wanted
    assert answers[0]["prompt_tokens"] > 16


def test_lines_of_a_chat_that_lead_nowhere_are_told(folder: Path) -> None:
    """A picture without a message, a message that begins with a slash, a command without value."""
    lines = f"/usr/bin is what?\n/drafter\n/image {folder / 'one.png'}\n"
    result = run("chat", "-m", str(folder / "model"), "-n", "2", "--json", stdin=lines)
    assert result.exit_code == 0 and not result.stdout, result.output
    told = " ".join(result.stderr.split())
    assert "'/usr/bin is what?' is no command: it was not answered" in told
    assert "'/drafter' is no command: give it a value" in told
    assert "1 of /image went with no message" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["what ?", "--image", "no.png"], "there is no file no.png"),
        (["what ?", "--video", "no.mp4"], "there is no file no.mp4"),
        (["what ?", "--video", "{folder}/film.mp4"], "needs PyAV"),
    ],
)
def test_files_that_cannot_be_shown(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "film.mp4").write_bytes(b"x")
    given = [x.format(folder=folder) for x in arguments]
    result = run("generate", *given, "-m", str(folder / "model"))
    assert result.exit_code and said in " ".join(result.stderr.split()), result.output


def test_a_model_without_its_processor(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*processor*"):
        path.unlink()
    engine = Engine.from_pretrained(tmp_path / "bare")
    assert engine.processor is None
    chat = [{"role": "user", "content": [{"type": "image", "image": str(folder / "one.png")}]}]
    with pytest.raises(InvalidArgument, match="holds no processor_config.json"):
        engine.generate(chat)
    (tmp_path / "bare" / "processor_config.json").write_text('{"processor_class": "Nothing"}')
    with pytest.raises(InvalidArgument, match="has none for images|it cannot be loaded"):
        Engine.from_pretrained(tmp_path / "bare").generate(chat)
