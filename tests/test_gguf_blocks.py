"""GGUF blocks say what the reference says, and a weight is found by its rows."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from stored_gguf import blocks
from torch import nn

from specdec import stored_weights
from specdec.gguf_blocks import TYPES, decode
from specdec.kernels.skinny_linear import skinny_linear

FORMATS = {
    **dict.fromkeys(["Q4_0", "Q4_1", "Q4_K", "Q2_K", "Q3_K"], "int4affine"),
    **dict.fromkeys(["Q5_1", "Q5_K"], "int8affine"),
    **dict.fromkeys(["Q8_0", "Q5_0", "Q6_K", "IQ4_NL", "IQ4_XS"], "int8"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_say_what_the_reference_says(kind: str) -> None:
    data = blocks(kind, 5, 768, np.random.default_rng(0))
    codes = decode(kind, data)
    want = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(codes.values(), want)
    assert codes.codes.min() >= (0 if codes.bits == 4 else -128)
    assert codes.codes.max() <= (15 if codes.bits == 4 else 127)


def test_a_large_scale_of_q4_0_keeps_its_minimum() -> None:
    """-8 times a large float16 is none any more."""
    data = blocks("Q4_0", 1, 64, np.random.default_rng(0))
    data[0, :2] = np.array([9000.0], np.float16).view(np.uint8)
    want = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(decode("Q4_0", data).values(), want)


class Tensor:
    """What `find` needs of a GGUF reader's tensor."""

    def __init__(self, kind: str, data: np.ndarray) -> None:
        self.tensor_type, self.data = gguf.GGMLQuantizationType[kind], data
        self.shape = gguf.dequantize(data, self.tensor_type).shape[::-1]

    def rows(self) -> torch.Tensor:
        return torch.from_numpy(gguf.dequantize(self.data, self.tensor_type))


def linear(weight: torch.Tensor) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return module


@pytest.mark.parametrize("kind", TYPES)
def test_a_weight_is_found_by_its_rows(kind: str) -> None:
    """Rows in another order, and from two tensors: the same bits, and products that agree."""
    rng = np.random.default_rng(1)
    tensors = [Tensor(kind, blocks(kind, rows, 256, rng)) for rows in (40, 24)]
    tensors[0].data[3] = tensors[1].data[5]  # a row that is there twice
    every = torch.cat([tensor.rows() for tensor in tensors])
    weight = every[torch.randperm(64, generator=torch.Generator().manual_seed(0))[:50]]
    packed = stored_weights.find(nn.ModuleDict({"a": linear(weight)}), tensors)["a"]
    assert packed.format == FORMATS[kind]
    assert packed.nbytes * 50 < 0.4 * 64 * weight.nbytes  # 64: outputs up to whole panels
    assert torch.equal(packed.dense(), weight)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ weight.double().T
    ours = (skinny_linear(x, packed) - exact).abs().max()
    theirs = (x @ weight.T - exact).abs().max()
    assert ours <= 4 * theirs + 1e-7 * exact.abs().max()


def test_what_is_not_all_there_is_left_out() -> None:
    rng = np.random.default_rng(2)
    q4, q8, ternary = (Tensor(k, blocks(k, 32, 256, rng)) for k in ("Q4_1", "Q8_0", "TQ2_0"))
    changed = q4.rows()
    changed[7, 9] += 1e-3
    layers = {
        "whole": linear(q4.rows()),
        "changed": linear(changed),
        "mixed": linear(torch.cat([q4.rows(), q8.rows()])),
        "unknown": linear(ternary.rows()),
        "narrow": linear(q4.rows()[:, :128]),
    }
    found = stored_weights.find(nn.ModuleDict(layers), [q4, q8, ternary])
    assert set(found) == {"whole"}


def test_a_lying_hash_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    there, asked = (Tensor("Q8_0", blocks("Q8_0", 4, 64, rng)) for _ in range(2))
    monkeypatch.setattr(stored_weights, "_hashes", lambda rows: [0] * len(rows))
    assert stored_weights.find(nn.ModuleDict({"a": linear(asked.rows())}), [there]) == {}
