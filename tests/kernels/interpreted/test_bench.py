"""What `specdec bench kernels` runs on a GPU, under the interpreter on small shapes.

See `test_attention.py`. On a GPU it is the command's own check in bfloat16.
"""

from __future__ import annotations

import pytest
import torch

from specdec.bench.kernels import attention_peers
from specdec.bench.kernels.attention_peers import Layer, shared_prefix
from specdec.bench.kernels.cases import CASES, Inputs
from specdec.bench.kernels.checks import check
from specdec.kernels import dispatch
from specdec.kernels.cache.quantize_kv import QuantizedKV, quantize_kv

from helpers.kernel_calls import KERNELS, kernel_of, recorded, wrong
from helpers.triton_drawn import DEVICE, DTYPES


@pytest.mark.parametrize("dtype", DTYPES[-1:])
def test_every_op_is_right(dtype):
    rows = list(check("triton", DEVICE, dtype))
    assert [row["op"] for row in rows] == list(CASES["triton"])
    assert not [row for row in rows if not row["ok"]]
    assert all(row["error"] > 0 for row in rows if "attention" in row["op"])


def _quantize(x, run):
    _, k, v, length, _ = x.level()
    kv = QuantizedKV.empty(k, v, 8, 32)
    run(quantize_kv)(k, v, kv, length * 0, length // 32 * 32, groups=k.shape[2] // 32)


def test_every_op_runs_its_kernel(monkeypatch):
    """Not the plain twin, which would give the same; see `kernels/test_kernel_calls.py`."""
    if DEVICE == "cpu":
        monkeypatch.setattr(dispatch, "kind_for", lambda x: "triton")
    with recorded(by_name=False) as calls:
        for case in (*CASES["triton"].values(), _quantize):
            case(Inputs(DEVICE, torch.float32, False), lambda op: op)
    assert not wrong(calls, "triton")
    assert set(calls) >= {op for op in KERNELS if kernel_of(op, "triton")}


@pytest.mark.parametrize("nodes", [1, 9])
def test_all_read_the_same_keys(nodes, monkeypatch):
    """Verification by us and by others agree; so do all pages; four bits are near them."""
    monkeypatch.setattr(attention_peers, "BUDGET", 128)
    layer = Layer("smollm2-135m", 128, nodes, DEVICE, torch.float32)
    ours = {each.name.split(",")[0]: each.run() for each in layer.ours("triton")}
    (sdpa, *_) = (each.run() for each in layer.peers())
    torch.testing.assert_close(ours["verification"][0], sdpa, rtol=1e-4, atol=1e-5)
    prefix = ours["prefix_attention"][0]
    torch.testing.assert_close(ours["gather_attention"][0], prefix, rtol=1e-4, atol=1e-5)
    assert 1e-5 < (ours["quantized_attention"][0] - prefix).abs().max() < 0.3


def test_sharing_changes_nothing():
    shared, each = shared_prefix("smollm2-135m", 40, 5, DEVICE, torch.float32, "triton")
    torch.testing.assert_close(shared.run()[0], each.run()[0], rtol=1e-4, atol=1e-5)
