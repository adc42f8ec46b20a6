"""Weights in a GGUF's own precision: the same numbers, fewer bytes, whatever the type."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from specdec import Engine
from specdec.check import first_difference, top2_gap
from specdec.errors import InvalidArgument, SpecdecError
from specdec.loading.gguf.blueprint import Source
from specdec.loading.gguf.load import read_gguf
from specdec.loading.gguf.model import ModelBuilder
from specdec.loading.loader import load
from specdec.model.packing import Packing
from specdec.model.released import is_released, panels_of, released_in

from helpers.stored_gguf import write_gguf


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A mix as quantisers make it: v and down finer than the rest, in one layer's kernels."""
    path = tmp_path / "tiny.gguf"
    finer = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q5_K", "token_embd.weight": "Q8_0"}
    write_gguf(path, "Q4_K", finer)
    return path


# By the types of the file: what products read.
FORMATS = {
    "float32": {"q_proj": "int4affine", "v_proj": "int8", "down_proj": "int8affine"},
    "int8": {"q_proj": "q4_k", "v_proj": "q6_k", "down_proj": "q5_k"},
}


@pytest.mark.parametrize("activations", FORMATS)
def test_a_gguf_is_read_as_it_is_stored(tiny: Path, activations: str) -> None:
    """Every linear layer and the tied head, in mixed formats within a layer."""
    exact = load(tiny, dtype="float32", device="cpu")
    assert not list(released_in(exact.model))
    weights = {n: m.weight.clone() for n, m in exact.model.named_modules() if type(m) is nn.Linear}
    engine = Engine.from_pretrained(tiny, device="cpu", activations=activations)
    assert "as stored" in engine.name
    assert ("8 bits" in engine.name) == (activations == "int8")
    assert engine.packing.activations == activations and activations in str(engine.packing)
    packed = {n: engine.packing.weights.get(m) for n, m in engine.model.named_modules()}
    for name, weight in weights.items():
        assert torch.equal(packed[name].dense(), weight), name
    formats = {name.split(".")[-1]: p.format for name, p in packed.items() if p}
    assert formats.items() >= FORMATS[activations].items()
    assert formats["gate_proj"] == formats["q_proj"]
    assert formats["lm_head"] == ("q8_0" if activations == "int8" else "int8")
    assert len(engine.packing.fused) == 2
    assert sum(engine.packing.nbytes.values()) < 0.3 * sum(w.nbytes for w in weights.values())
    single = Engine.from_pretrained(tiny, device="cpu", dtype="float32")
    assert set(single.packing.nbytes) == {"float32"}
    laws = (engine, single) if activations == "float32" else (engine,)  # rounding is another law
    texts = [
        e.generate([1, 2, 3, 4], max_new_tokens=24, drafter=drafter).token_ids
        for drafter in ("none", "ngram")
        for e in laws
    ]
    assert all(text == texts[0] for text in texts)
    twin = copy.deepcopy(engine.model)
    engine.packing.restore()
    for model in (engine.model, twin):
        state = dict(model.named_modules())
        assert all(torch.equal(state[name].weight, weight) for name, weight in weights.items())


def test_matrices_are_never_dense(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept as stored is not dequantised on the way, and has its numbers for who asks."""
    read: list[str] = []
    own = ModelBuilder._value

    def value(self: ModelBuilder, name: str, source: Source) -> torch.Tensor:
        read.append(name)
        return own(self, name, source)

    monkeypatch.setattr(ModelBuilder, "_value", value)
    model = load(tiny, device="cpu").model
    assert read and all("norm" in name for name in read)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    linears = [m for m in model.modules() if type(m) is nn.Linear]
    assert sum(is_released(m.weight) for m in linears) == 15
    with torch.inference_mode():  # transformers' own forward, by dense copies of one at a time
        exact = load(tiny, dtype="float32", device="cpu").model(torch.tensor([[1, 2]])).logits
        assert torch.equal(model(torch.tensor([[1, 2]])).logits, exact)
    with pytest.raises(SpecdecError, match="packed"):
        model.lm_head.weight.sum()
    packing = Packing.of(model)
    assert packing.memory == sum(packing.nbytes.values())  # one copy for embedding and head


TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
         "Q2_K", "F16", "BF16", "F32", "TQ2_0"]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_embeddings_are_looked_up_as_they_are_stored(
    kind: str, is_tied: bool, tmp_path: Path
) -> None:
    """To the bit the rows of the dense table, in no more memory than the file's."""
    finer = {"token_embd.weight": kind}
    if not is_tied:
        finer["output.weight"] = "Q6_K"
    write_gguf(tmp_path / "a.gguf", "Q4_K", finer)
    exact = load(tmp_path / "a.gguf", dtype="float32", device="cpu").model.get_input_embeddings()
    model = load(tmp_path / "a.gguf", device="cpu").model
    table = model.get_input_embeddings()
    ids = torch.tensor([[0, 5, 5], [1, table.num_embeddings - 1, 2]])
    assert is_released(table.weight) and torch.equal(table(ids), exact(ids))
    assert (model.lm_head.weight is table.weight) == is_tied
    assert panels_of(table.weight).nbytes <= 1.03 * exact.weight.nbytes
    with pytest.raises(IndexError):
        table(torch.tensor([table.num_embeddings]))
    Packing.of(model)
    assert torch.equal(table(ids), exact(ids))
    Packing.on(model).restore()
    assert torch.equal(table.weight, exact.weight)
    assert (model.lm_head.weight is table.weight) == is_tied


def test_the_memory_that_is_said_is_the_memory_that_is_taken(tiny: Path) -> None:
    gguf = read_gguf(tiny)
    for how in ((True, True), (True, False), (False, False)):
        builder = ModelBuilder(gguf.file, gguf.blueprint, torch.float32, *how)
        said = builder.nbytes
        model = builder.build(lambda done, total: None)
        taken = sum(p.nbytes for p in model.parameters() if not is_released(p))
        taken += sum(panels.nbytes for panels in released_in(model))
        assert abs(said - taken) <= 0.02 * taken


def test_other_types_are_read_as_floats_one_by_one(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "TQ2_0", {"attn_k.weight": "BF16", "ffn_up.weight": "Q5_1"})
    packing = Packing.of(load(tmp_path / "a.gguf", device="cpu", activations="int8").model)
    # three values times a float16 are exact in float16, and bfloat16 is kept
    assert set(packing.nbytes) == {"q5_1", "float16", "bfloat16"}


def test_a_float_gguf_is_read_as_it_is_stored(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "F16")
    loaded = load(tmp_path / "a.gguf", device="cpu")
    assert "as stored" in loaded.source and "8 bits" not in loaded.source
    assert {panels.format for panels in released_in(loaded.model)} == {"float16"}


def test_a_draft_model_is_read_as_it_is_stored(tiny: Path) -> None:
    engine = Engine.from_pretrained(tiny, device="cpu", dtype="float32")
    draft = engine._draft_models.get(tiny, engine.target)
    out = engine.generate([1, 2, 3], max_new_tokens=12, drafter="model", draft_model=draft)
    plain = engine.generate([1, 2, 3], max_new_tokens=12, drafter="none")
    assert out.token_ids == plain.token_ids
    assert out.stats.draft_acceptance_rate > 0.5  # the same numbers
    assert draft.model.lm_head.weight is draft.model.model.embed_tokens.weight


def test_activations_that_cannot_be(tiny: Path, tmp_path: Path) -> None:
    """By name, and before anything is loaded in vain."""
    write_gguf(tmp_path / "a.gguf", "F16")
    with pytest.raises(InvalidArgument, match="activations='int4' is unknown"):
        Engine.from_pretrained(tiny, activations="int4")
    with pytest.raises(InvalidArgument, match="'int8'.* not read as they are stored"):
        Engine.from_pretrained(tiny, device="cpu", dtype="float32", activations="int8")
    with pytest.raises(InvalidArgument, match="'int8'.* none of a.gguf"):
        Engine.from_pretrained(tmp_path / "a.gguf", device="cpu", activations="int8")
    with pytest.raises(InvalidArgument, match="'int8'.* is no GGUF"):
        Engine.from_pretrained(tmp_path, device="cpu", activations="int8")


@pytest.mark.slow
@pytest.mark.weights
def test_the_demo_says_in_its_precision_what_it_says_in_float32() -> None:
    """Greedily, 32 tokens each; a divergence is named with the gap between its top two logits."""
    stored = Engine.from_pretrained("demo", device="cpu", activations="float32")
    assert sum(stored.packing.nbytes.values()) < 98e6
    assert set(stored.packing.nbytes) == {"int4affine", "int8"}
    single = Engine.from_pretrained("demo", device="cpu", dtype="float32")
    for prompt in ("The capital of France is", "def fibonacci(n):", "Once upon a time,"):
        texts = [
            engine.generate(prompt, max_new_tokens=32, drafter="none").token_ids
            for engine in (stored, single)
        ]
        at = first_difference(*texts)
        if at is not None:
            ids = single.tokenizer(prompt)["input_ids"]
            gap = top2_gap(single, [*ids, *texts[1][:at]])
            pytest.fail(f"{prompt!r} differs at token {at}, where the top two are {gap:.2g} apart")
