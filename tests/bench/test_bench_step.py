"""`specdec bench step`: passes of ours and of peers, op by op, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from specdec import Engine
from specdec.bench import ik_llama_cpp, llama_cpp, step_profile
from specdec.bench.contestants import HuggingFace
from specdec.cli.bench_step import _print
from specdec.loading.loader import load

from helpers import letters
from helpers.command import run
from helpers.tiny_llama import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return letters.save(tmp_path_factory.mktemp("steps") / "letters")


@pytest.fixture(autouse=True)
def _a_short_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "STREAM_BYTES", 1 << 20)


def test_widths_views_and_peers_take_turns(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "steps" / "letters.json"
    arguments = ("-m", folder, "--contexts", "40,80", "--widths", "1,4", "--repeats", "3")
    arguments += ("--views", "streaming", "--baselines", "hf", "--out", str(out))
    arguments += ("--prompts", "30,60")
    result = run("bench", "step", *arguments, COLUMNS="200")
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text())
    kinds = [("full", 1), ("full", 4), ("streaming", 1), ("hf", 1)]
    passes = document["passes"]
    assert [(p["context"], p["view"], p["nodes"]) for p in passes] == [
        (context, *kind) for context in (40, 80) for kind in kinds
    ]
    assert all(p["total"] > 0 for p in passes)
    read = [(p["tokens"], p["who"]) for p in document["prompts"]]
    assert read == [(n, who) for n in (30, 60) for who in ("hf", "specdec")]
    assert all(p["total"] > 0 for p in document["prompts"])
    for p in passes:
        if p["view"] != "hf":
            assert p["floor"] > 0 and "other" in p["calls"] and "other" in p["ops"]
    for name in ("streaming", "hf", "of plain", "other ", "read by"):
        assert name in result.output
    shown = run("bench", "step", *arguments, "--json")
    assert [p["view"] for p in json.loads(shown.stdout)["passes"]] == [p["view"] for p in passes]


def test_layers_in_one_call_are_also_timed_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    document = step_profile.profile_steps(Engine(tiny_llama()), [1] * 50, [40], [1, 4], repeats=3)
    for entry in document["passes"]:
        assert {"decoder_run", "head_argmax", "other"} == set(entry["calls"])
        assert {"level_attention", "layer_output", "head_argmax", "other"} <= set(entry["ops"])
        assert "decoder_run" not in entry["ops"]
        assert min(entry["calls"].values()) > 0
    _print(document)
    assert "decoder run" in capsys.readouterr().out.replace("\n", " ")


def test_a_step_of_transformers_is_one_pass_behind_what_was_read(folder: str) -> None:
    model = load(folder, dtype=torch.float32).model
    widths: list[int] = []
    model.register_forward_hook(
        lambda module, args, kwargs, out: widths.append(args[0].shape[1]), with_kwargs=True
    )
    peer = HuggingFace(model, "hf")
    for _ in range(2):
        peer.read([1, 2, 3, 4, 5])
        peer.step(6)
        assert peer.cache is not None and peer.cache.get_seq_length() == 6
    assert widths == [5, 1, 5, 1]


def test_a_step_of_llama_cpp_is_one_pass_behind_what_was_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    class Llama:
        def __init__(self, file: str, **settings: Any) -> None:
            calls.append(settings["n_ctx"])

        def reset(self) -> None:
            calls.append("reset")

        def eval(self, tokens: list[int]) -> None:
            calls.append(tokens)

    package = ModuleType("llama_cpp")
    package.Llama = Llama  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    peer = llama_cpp.LlamaCpp("llama.cpp-f32", tmp_path / "model.gguf", 90)
    peer.read([1, 2, 3])
    peer.step(4)
    assert calls == [90, "reset", [1, 2, 3], [4]]


def test_llama_cpp_looks_prompts_up_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drafts: dict[str, Any] = {}

    class Llama:
        def __init__(self, file: str, *, draft_model: Any, **settings: Any) -> None:
            drafts[file] = draft_model

    package, inside = ModuleType("llama_cpp"), ModuleType("llama_cpp.llama_speculative")
    package.Llama = Llama  # type: ignore[attr-defined]
    inside.LlamaPromptLookupDecoding = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_speculative", inside)
    monkeypatch.setattr(llama_cpp, "_kind", lambda file: "q8_0")
    for name in ("llama.cpp", "llama.cpp-pld"):
        peer = llama_cpp.contestant(name, tmp_path / f"{name}.gguf", 90)
        assert peer.name == f"{name}-q8_0"
    plain, lookup = drafts.values()
    assert plain is None and lookup.num_pred_tokens == llama_cpp.LOOKUP


def test_passes_of_ik_llama_cpp_go_on_where_the_last_one_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    class Context:
        _n_ubatch = 2

        def kv_cache_clear(self) -> None:
            calls.append("clear")

        def decode(self, batch: Any) -> int:
            calls.append(batch)
            return int(batch[0] == [9])

    class IkLlama:
        def __init__(self, file: str, **settings: Any) -> None:
            self._context = Context()

    package, inside = ModuleType("ik_llama_cpp"), ModuleType("ik_llama_cpp.llama")
    package.IkLlama, package.llama = IkLlama, inside  # type: ignore[attr-defined]
    inside.C = SimpleNamespace(llama_batch_free=lambda batch: None)  # type: ignore[attr-defined]
    inside.make_batch_range = lambda ids, pos_start, logits_last: (ids, pos_start, logits_last)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ik_llama_cpp", package)
    peer = ik_llama_cpp.IkLlamaCpp("ik_llama.cpp", tmp_path / "model.gguf", 90)
    peer.read([1, 2, 3])
    peer.step(4)
    assert calls == ["clear", ([1, 2], 0, False), ([3], 2, True), ([4], 3, True)]
    with pytest.raises(ValueError, match="gave up"):
        peer.step(9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--baselines", "hf-pld"], "hf, ik_llama.cpp"),
        (["--baselines", "llama.cpp"], "GGUF"),
        (["--baselines", "ik_llama.cpp"], "GGUF"),
        (["--prompts", "0"], "--prompts"),
        (["--views", "full"], "views"),
        (["--contexts", "0"], "--contexts"),
        (["--widths", "1,x"], "--widths"),
        (["--contexts", "10000000"], "--contexts"),
    ],
)
def test_mistakes_are_explained(
    folder: str, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("llama_cpp", "ik_llama_cpp"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    result = run("bench", "step", "-m", folder, *arguments)
    assert result.exit_code == 2 and says in result.output, result.output


def test_a_text_too_short_for_the_turns_is_refused(folder: str) -> None:
    engine = Engine.from_pretrained(folder)
    with pytest.raises(ValueError, match="the text has 50 tokens"):
        step_profile.profile_steps(engine, [1] * 50, [45], [1], repeats=5)
