"""Files of what was measured: read as they were written; for others refused, with the reason."""

from __future__ import annotations

import json

import pytest
import torch

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.sparse.calibrations.calibration import Calibration
from specdec.sparse.calibrations.retaining_heads import RetainingHeads, retained
from specdec.sparse.fingerprint import fingerprint

from helpers import models


@pytest.fixture(scope="module")
def target():
    return Engine(models.build("llama", dtype=torch.float32)).target


def made(target):
    layers = tuple({"echo": [0.125, 0.25, 1e-7, 0.5]} for _ in range(target.num_layers))
    return Calibration("razor", fingerprint(target), "some words", layers)


def test_what_is_written_is_read(target, tmp_path):
    made(target).save(tmp_path / "a.json")
    got = Calibration.load(tmp_path / "a.json", "razor", target)
    assert got.layers == made(target).layers
    assert got.of(1, "echo")[3] == 0.5
    assert got.text == "some words"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fingerprint": "0"}, "another model"),
        ({"method": "duo"}, "made for 'duo'"),
        ({"format": "x"}, "no calibration file"),
        ({"layers": []}, "cut or changed"),
        ({"layers": [{"echo": [1.0]}, {"echo": ["x"]}]}, "cut or changed"),
        ({"layers": [{"echo": [1.0]}, None]}, "cut or changed"),
    ],
)
def test_others_are_refused_with_the_reason(target, tmp_path, change, reason):
    path = tmp_path / "a.json"
    made(target).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InvalidArgument, match=reason):
        Calibration.load(path, "razor", target)


def test_no_file_and_no_json_are_refused(target, tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        Calibration.load(tmp_path / "none", "razor", target)
    (tmp_path / "a").write_text("{")
    with pytest.raises(InvalidArgument, match="no calibration file"):
        Calibration.load(tmp_path / "a", "razor", target)


def heads(target, seed=0):
    draw = torch.Generator().manual_seed(seed)
    layers = tuple(
        (torch.randn(64, 5, generator=draw), torch.randn(5, 2, generator=draw))
        for _ in range(target.num_layers)
    )
    return RetainingHeads(fingerprint(target), "some words", layers)


def test_retaining_heads_are_the_formula_and_come_back(target, tmp_path):
    q, k, v = torch.randn(4, 7, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    own = heads(target)
    w1, w2 = own.layers[1]
    want = torch.stack(
        [
            (lambda x: (x / (1 + (-x).exp())) @ w2)(
                torch.cat([q[:, t].flatten(), k[:, t].flatten(), v[:, t].flatten()]) @ w1
            )
            for t in range(7)
        ],
        dim=1,
    )
    torch.testing.assert_close(own.scores(1, q, k, v), want)
    own.save(tmp_path / "heads.safetensors")
    back = RetainingHeads.load(tmp_path / "heads.safetensors", target)
    torch.testing.assert_close(back.scores(1, q, k, v), want, rtol=0.02, atol=0.05)
    assert retained(torch.zeros(3, 64), w1, w2).shape == (3, 2)


def test_retaining_heads_of_another_model_are_refused(target, tmp_path):
    RetainingHeads("other", "", heads(target).layers).save(tmp_path / "a")
    with pytest.raises(InvalidArgument, match="another model"):
        RetainingHeads.load(tmp_path / "a", target)
    (tmp_path / "b").write_bytes(b"x" * 100)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        RetainingHeads.load(tmp_path / "b", target)
