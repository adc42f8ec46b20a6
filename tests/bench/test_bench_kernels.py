"""`specdec bench kernels` on a CPU: its checks, timings and goals, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from specdec.bench.kernels import checks, profile
from specdec.cli.app import app
from specdec.kernels.selection.page_mass import page_mass

pytest.importorskip("numba", reason="numba is not installed")
SMALL = ["--device", "cpu", "--shapes", "smollm2-135m", "--contexts", "64,130", "--nodes", "1,5"]


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "kernels", *arguments])


@pytest.fixture(autouse=True)
def _small_copies(monkeypatch):
    monkeypatch.setattr(profile, "COPIED", {"cpu": 1 << 22})


def test_a_document(tmp_path):
    file = tmp_path / "new" / "kernels.json"
    done = run(*SMALL, "--repeats", "2", "--out", str(file), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(file.read_text())
    assert document == json.loads(done.stdout)
    assert document["dtype"] == "float32" and document["copy_gb_s"] > 0
    assert all(row["ok"] for row in document["checks"]) and len(document["checks"]) == 8
    cells = {(row["context"], row["nodes"], row["name"]) for row in document["timings"]}
    names = {name for _, _, name in cells}
    assert len(cells) == 2 * 2 * 3 and {"level_attention (numba)"} < names
    for row in document["timings"]:
        assert row["ms"] > 0
        assert row["share"] == pytest.approx(row["gb_s"] / document["copy_gb_s"])
    assert [row["met"] for row in document["goals"]] == [None] * 4


def test_what_is_printed():
    done = run(*SMALL, "--repeats", "1")
    assert done.exit_code == 0, done.output
    assert "right  level_attention" in done.stdout and "not measured" in done.stdout
    assert "scaled_dot_product_attention with mask" in done.stdout


def test_a_wrong_kernel_is_found(monkeypatch):
    right = page_mass.numba
    monkeypatch.setitem(page_mass.__dict__, "numba", lambda *a, **how: right(*a, **how) + 1e-3)
    rows = {row["op"]: row for row in checks.check("numba", "cpu", torch.float32)}
    assert not rows["page_mass"]["ok"] and rows["level_attention"]["ok"]
    done = run(*SMALL, "--repeats", "1")
    assert done.exit_code == 1 and "WRONG  page_mass" in done.stdout


def row(name, context, nodes, share=0.9, ms=1.0, shape="llama-3.1-8b"):
    return dict(name=name, shape=shape, context=context, nodes=nodes, share=share, ms=ms)


def test_goals():
    """The worst of what counts decides; what was not measured is neither met nor missed."""
    reads = [row("prefix_attention", 1 << 16, n, share) for n, share in ((1, 0.9), (16, 0.86))]
    reads += [row("prefix_attention", 8192, 1, 0.1), row("prefix_attention", 1 << 17, 64, 0.7)]
    widths = [row("verification", 1 << 15, 1), row("verification", 1 << 15, 16, ms=1.05)]
    few, many, wide, shared = profile.goals(reads + widths, 12.0)
    assert few["met"] and few["measured"] == 0.86 and few["least"] == 0.85
    assert many["met"] is False and wide["met"] and wide["measured"] == 1.05 and shared["met"]
    widths += [row("verification", 1 << 17, 1), row("verification", 1 << 17, 16, ms=1.2)]
    few, many, wide, shared = profile.goals(widths, None)
    assert few["met"] is many["met"] is shared["met"] is None and wide["met"] is False


def test_what_is_refused():
    cases = {
        "give 'cuda' or 'cpu'": ["--device", "tpu"],
        "give one of llama-3.1-8b": [*SMALL, "--shapes", "gpt-2"],
        "--nodes '0'": [*SMALL, "--nodes", "0"],
    }
    if not torch.cuda.is_available():
        cases["no CUDA device is here"] = ["--device", "cuda"]
    for message, arguments in cases.items():
        done = run(*arguments)
        assert done.exit_code == 2 and message in done.output, done.output
