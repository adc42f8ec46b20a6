"""`specdec bench image-costs`: what it times, on shapes small enough to try."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from specdec.bench.image_shapes import SHAPES, asked, random_images_model
from specdec.cli.app import app
from specdec.errors import InvalidArgument

from helpers import vision


def small(name, tiny, tokens):
    """A shape whose model is of the tests'; pixels of its first size."""
    row = vision.inputs(tiny)
    pixels = {x: row[x].float() for x in ("pixel_values",)}
    if "image_grid_thw" in row:
        pixels["image_grid_thw"] = row["image_grid_thw"]

    def config(layers):
        made = vision.ARCHITECTURES[tiny]()[1]
        made.text_config.num_hidden_layers = layers
        return made

    return replace(SHAPES[name], layers=3, config=config, pixels=lambda: pixels, tokens=tokens)


@pytest.mark.parametrize(
    ("name", "tiny", "tokens"), [("smolvlm-256m", "smolvlm", 4), ("qwen2.5-vl-3b", "qwen2.5-vl", 6)]
)
def test_towers_prompts_and_passes_are_timed(monkeypatch, tmp_path, name, tiny, tokens):
    monkeypatch.setitem(SHAPES, name, small(name, tiny, tokens))
    out = tmp_path / "costs.json"
    arguments = [
        "bench", "image-costs", "--random", name, "--layers", "2", "--images", "1,3",
        "--widths", "1,4", "--repeats", "2", "--out", str(out),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert (found["layers"], found["of_layers"]) == (2, 3)
    assert [x["images"] for x in found["cells"]] == [1, 3]
    assert [x["tokens"] for x in found["cells"]] == [n * (tokens + 1) + 32 for n in (1, 3)]
    for cell in found["cells"]:
        assert [x["nodes"] for x in cell["passes"]] == [1, 4]
        assert min(cell["tower"], cell["again"], cell["read"]) > 0
        assert all(x["total"] > 0 for x in cell["passes"])
    assert "2 of 3 text layers" in result.output and "passes by nodes" in result.output


def test_the_shapes_are_those_of_the_models():
    """By what their cards say of them; nothing is allocated."""
    for name, millions in (("smolvlm-256m", 256), ("qwen2.5-vl-3b", 3755)):
        shape = SHAPES[name]
        with torch.device("meta"):
            model = shape.kind(shape.config(shape.layers))
        count = sum(p.numel() for p in model.parameters()) / 1e6
        assert abs(count - millions) < 0.02 * millions
        given = shape.pixels()
        assert asked(shape, model, 2, 5)["input_ids"].shape[1] == 2 * shape.tokens + 7
        if "image_grid_thw" in given:
            merged = given["image_grid_thw"].prod() // 4
            assert int(merged) == shape.tokens


def test_what_does_not_exist(monkeypatch):
    with pytest.raises(InvalidArgument, match="smolvlm-256m"):
        random_images_model("smolvlm", None, torch.float32)
    with pytest.raises(InvalidArgument, match="has 30"):
        random_images_model("smolvlm-256m", 31, torch.float32)
    result = CliRunner().invoke(app, ["bench", "image-costs", "--dtype", "float16"])
    assert result.exit_code and "bfloat16" in result.output
