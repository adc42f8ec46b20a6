"""Experts of a GGUF as they are stored: the same numbers in the file's bits."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch

from specdec import Engine
from specdec.errors import SpecdecError
from specdec.loading.gguf.load import read_gguf
from specdec.loading.gguf.model import ModelBuilder
from specdec.loading.loader import load
from specdec.model.released import InPanels
from specdec.model.released_experts import experts_in

from helpers import gguf_models
from helpers.gguf_models import in_whole_blocks, write_case

pytest.importorskip("numba", reason="numba is not installed")

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
NAMES = ["mixtral", "qwen2moe", "qwen3moe"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16"])
def test_experts_are_read_as_they_are_stored(name: str, kind: str, tmp_path: Path) -> None:
    """In the file's bits, and to rounding what transformers makes of the same numbers."""
    path = tmp_path / "a.gguf"
    write_case(path, in_whole_blocks(name), kind=kind)
    exact = load(path, device="cpu", dtype="float32").model
    stored = load(path, device="cpu").model  # with transformers' own attention
    for ids in (IDS, IDS[:1]):
        with torch.inference_mode():
            theirs = exact(torch.tensor([ids])).logits
            ours = stored(torch.tensor([ids])).logits
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()
    engine = Engine.from_pretrained(path, device="cpu")
    held = [x for module in engine.model.modules() for x in experts_in(module).values()]
    numbers = sum(x.numel() for x in held)
    assert len(held) == 2 * engine.target.num_layers
    bits = {"Q4_0": 4 + 32 / 32, "Q8_0": 8 + 16 / 32, "F16": 16}[kind]  # Q4_0 keeps its zero point
    assert sum(engine.packing.experts_nbytes.values()) <= 1.03 * numbers * bits / 8
    assert engine.packing.activations == "float32" and "experts" in str(engine.packing)
    texts = [
        engine.generate(IDS, max_new_tokens=24, drafter=drafter, eos_token_id=[], **how).token_ids
        for how in ({}, {"temperature": 1.0, "seed": 3})
        for drafter in ("none", "ngram", "streaming")
    ]
    assert texts[:3] == texts[:1] * 3 and texts[3:] == texts[3:4] * 3
    greedy = exact.generate(
        torch.tensor([IDS]), attention_mask=torch.ones(1, len(IDS)), max_new_tokens=24,
        do_sample=False,
    )  # fmt: skip
    assert texts[0] == greedy[0, len(IDS) :].tolist()


def test_experts_are_never_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is said of memory is what is taken."""
    path = tmp_path / "a.gguf"
    write_case(path, in_whole_blocks("mixtral"), kind="Q8_0")
    read: list[str] = []
    value = ModelBuilder._value
    monkeypatch.setattr(
        ModelBuilder, "_value", lambda self, name, source: read.append(name) or value(
            self, name, source))  # fmt: skip
    gguf = read_gguf(path)
    for rounds in (True, False):
        builder = ModelBuilder(gguf.file, gguf.blueprint, torch.float32, True, rounds)
        said = builder.nbytes
        model = builder.build(lambda done, total: None)
        assert read and not any("experts" in name for name in read)
        taken = sum(p.nbytes for p in model.parameters() if not isinstance(p, InPanels))
        panels = {id(x): x for p in model.parameters() if isinstance(p, InPanels)
                  for x in _panels(p)}  # fmt: skip
        assert abs(said - taken - sum(x.nbytes for x in panels.values())) <= 0.02 * said


def _panels(x):
    return [p for e in x.panels for p in e] if isinstance(x.panels, tuple) else [x.panels]


def test_a_packed_mixture_is_saved_and_copied_as_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_case(path, in_whole_blocks("qwen3moe"), kind="Q8_0")
    exact = load(path, device="cpu", dtype="float32").model
    engine = Engine.from_pretrained(path, device="cpu")
    layer = engine.model.model.layers[0].mlp.experts
    with pytest.raises(SpecdecError, match="packed"):
        layer.gate_up_proj.sum()
    with pytest.raises(SpecdecError, match="packed"):
        engine.model.load_state_dict(exact.state_dict())
    twin = copy.deepcopy(engine.model)
    engine.model.save_pretrained(tmp_path / "saved")
    for model in (twin, load(tmp_path / "saved", device="cpu", dtype="float32").model):
        for key, x in exact.state_dict().items():
            assert torch.equal(model.state_dict()[key], x), key
    assert isinstance(layer.gate_up_proj, InPanels)
    engine.packing.restore()
    assert all(
        torch.equal(a, b)
        for a, b in zip(engine.model.parameters(), exact.parameters(), strict=True)
    )


def test_gates_and_ups_of_two_types(tmp_path: Path) -> None:
    case = in_whole_blocks("mixtral")
    model = gguf_models.model_of(case.config)
    tensors = gguf_models.tensors_of(model, case.architecture)
    gguf_models.write(
        tmp_path / "a.gguf", case.architecture, gguf_models.keys_of(case), tensors, "Q8_0",
        others={"ffn_up_exps": "Q4_0"},
    )  # fmt: skip
    exact = load(tmp_path / "a.gguf", device="cpu", dtype="float32").model
    stored = load(tmp_path / "a.gguf", device="cpu").model
    formats = {panels.format for x in stored.parameters() if isinstance(x, InPanels)
               for panels in _panels(x)}  # fmt: skip
    assert formats == {"int8", "int4affine"}
    with torch.inference_mode():
        theirs = exact(torch.tensor([IDS])).logits
        gap = (stored(torch.tensor([IDS])).logits - theirs).abs().max()
    assert gap <= 2e-5 * theirs.abs().max()


def test_what_is_widened_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """gpt-oss has its experts' matrices the other way round."""
    write_case(tmp_path / "a.gguf", in_whole_blocks("gpt-oss"), kind="Q8_0")
    with caplog.at_level(logging.WARNING, "specdec"):
        load(tmp_path / "a.gguf", device="cpu")
    assert "a.gguf: matrices in Q8_0 are widened to floats: 0.0 GB" in caplog.text
    caplog.clear()
    write_case(
        tmp_path / "b.gguf", in_whole_blocks("mixtral"), kind="Q8_0", others={"gate_inp": "F32"}
    )
    with caplog.at_level(logging.WARNING, "specdec"):
        load(tmp_path / "b.gguf", device="cpu")
    assert "widened" not in caplog.text
