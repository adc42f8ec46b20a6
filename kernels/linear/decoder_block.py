"""The two halves of a decoder layer around its attention, as ops on the layer's weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.packed_weight import PanelWeight

ACTIVATIONS = ("silu", "gelu_tanh", "gelu")


@dataclass(frozen=True, eq=False)
class Linear:
    """A projection: its weight in panels and its bias `[outputs]`, if any."""

    weight: PanelWeight
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(self.weight.seen(x), self.weight.dense(), self.bias)


@dataclass(frozen=True, eq=False)
class Norm:
    """An RMS norm: `x / rms(x) * weight`."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """What turns a layer's input into queries, keys and values."""

    norm: Norm
    q: Linear
    k: Linear
    v: Linear
    head_dim: int
    q_norm: Norm | None = None
    k_norm: Norm | None = None


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """What turns a layer's input and its attention into the layer's output."""

    o: Linear
    mlp_norm: Norm
    gate: Linear
    up: Linear
    down: Linear
    activation: str
    post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None


@dispatched
def attention_inputs(
    x: Tensor, layer: AttentionInputs, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q `[B, H, N, D]`, k and v `[B, Hkv, N, D]` of `x[B, N, hidden]`, rotated by halves.

    cos, sin: `[B or 1, N, rotary]`, rotary <= D; the rest of a head is not turned.
    """
    h = layer.norm(x)
    heads = []
    for linear, norm in ((layer.q, layer.q_norm), (layer.k, layer.k_norm), (layer.v, None)):
        y = linear(h).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
        heads.append(y if norm is None else norm(y))
    q, k, v = heads
    return rotated(q, cos, sin), rotated(k, cos, sin), v


@dispatched
def layer_output(x: Tensor, o: Tensor, layer: LayerOutput) -> Tensor:
    """The layer's output `[B, N, hidden]` from its input x and its attention `o[B, H, N, D]`."""
    y = layer.o(o.transpose(1, 2).flatten(2))
    y = x + (y if layer.post_norm is None else layer.post_norm(y))
    h = layer.mlp_norm(y)
    approximate = "tanh" if layer.activation == "gelu_tanh" else "none"
    gate = layer.gate(h)
    if layer.activation == "silu":
        gate = functional.silu(gate)
    else:
        gate = functional.gelu(gate, approximate=approximate)
    z = layer.down(gate * layer.up(h))
    return y + (z if layer.mlp_post_norm is None else layer.mlp_post_norm(z))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads `x[B, H, N, D]` turned by halves, as `attention_inputs` does."""
    rotary = cos.shape[-1]
    turned, rest = x[..., :rotary], x[..., rotary:]
    low, high = turned.chunk(2, dim=-1)
    half = torch.cat([-high, low], dim=-1)
    turned = turned * cos[:, None] + half * sin[:, None]
    return torch.cat([turned, rest], dim=-1)
