"""FusedLayer: a decoder layer of transformers as two calls around its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.forward.attend import attend
from specdec.forward.attention import required
from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.kernels.linear.decoder_block import (
    ACTIVATIONS,
    AttentionInputs,
    LayerOutput,
    Linear,
    Norm,
    attention_inputs,
    layer_output,
)
from specdec.kernels.linear.packed_weight import PanelWeight, quantise

_CHILDREN = {
    "self_attn", "mlp", "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
    "post_feedforward_layernorm", "resid_attn_dropout", "resid_mlp_dropout",
}  # fmt: skip
_ATTENTION = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "gate_up_proj", "down_proj", "act_fn", "activation_fn"}


class NoMatch(Exception):
    """Why a layer keeps its own forward."""


@dataclass(frozen=True)
class FusedLayer:
    """What a recognised layer computes, ready to be called in place of its `forward`.

    settings: a call of the layer's own attention, for its scale, window, softcap and sinks.
    """

    inputs: AttentionInputs
    output: LayerOutput
    settings: AttentionCall

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        specdec_pass: ForwardPass | None = None,
        **_: Any,
    ) -> Tensor:
        """The layer's output `[B, N, hidden]`; its keys and values are staged in the pass."""
        pass_ = required(specdec_pass)
        x = hidden_states.contiguous()
        cos, sin = position_embeddings
        q, k, v = attention_inputs(x, self.inputs, cos.contiguous(), sin.contiguous())
        s = self.settings
        call = AttentionCall(s.layer, q, k, v, s.scale, s.softcap, s.window, s.sinks)
        pass_.heard.add(s.layer)
        o = attend(pass_, call)
        return layer_output(x, o.contiguous(), self.output)

    @property
    def kv_heads(self) -> int:
        return self.inputs.k.weight.outputs // self.inputs.head_dim

    def quantised(self, bits: int) -> FusedLayer:
        """This layer with a copy of its weights in 8 or 4 bits, for drafting."""

        def smaller(linear: Linear) -> Linear:
            return Linear(quantise(linear.weight.dense(), bits), linear.bias)

        i, o = self.inputs, self.output
        return FusedLayer(
            replace(i, q=smaller(i.q), k=smaller(i.k), v=smaller(i.v)),
            replace(
                o, o=smaller(o.o), gate=smaller(o.gate), up=smaller(o.up), down=smaller(o.down)
            ),
            self.settings,
        )


def recognise(
    layer: nn.Module, settings: AttentionCall, weights: dict[nn.Module, PanelWeight]
) -> FusedLayer:
    """The fused form of a layer, by the names and shapes of its parts; raises NoMatch.

    weights: the packed weight of every linear layer. That the layer really computes what its parts
    suggest is not known before it has been compared with it.
    """
    parts: Any = layer
    _only(layer, _CHILDREN)
    scales = [name for name, x in vars(layer).items() if isinstance(x, float)]
    if scales:
        raise NoMatch(f"{type(layer).__name__} has {', '.join(scales)}")
    attention, mlp = _part(parts, "self_attn"), _part(parts, "mlp")
    if not getattr(attention, "use_rope", True):
        raise NoMatch(f"{type(attention).__name__} does not rotate")
    _only(attention, _ATTENTION)
    _only(mlp, _MLP)
    heads, kv_heads, dim = settings.q.shape[1], settings.k.shape[1], settings.q.shape[-1]
    if settings.v.shape[-1] != dim:
        raise NoMatch("values are of another size than keys")
    sizes = (heads * dim, kv_heads * dim, kv_heads * dim)
    q, k, v = _linears(attention, ("q_proj", "k_proj", "v_proj"), "qkv_proj", sizes, weights)
    wide = _linear(_part(mlp, "down_proj"), weights).weight.inputs
    gate, up = _linears(mlp, ("gate_proj", "up_proj"), "gate_up_proj", (wide, wide), weights)
    sandwiched = hasattr(parts, "pre_feedforward_layernorm")
    after = _part(parts, "post_attention_layernorm")
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return FusedLayer(
        AttentionInputs(
            _norm(_part(parts, "input_layernorm")),
            q,
            k,
            v,
            dim,
            None if q_norm is None else _norm(q_norm, dim),
            None if k_norm is None else _norm(k_norm, dim),
        ),
        LayerOutput(
            _linear(_part(attention, "o_proj"), weights),
            _norm(parts.pre_feedforward_layernorm if sandwiched else after),
            gate,
            up,
            _linear(_part(mlp, "down_proj"), weights),
            _activation(getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)),
            _norm(after) if sandwiched else None,
            _norm(_part(parts, "post_feedforward_layernorm")) if sandwiched else None,
        ),
        replace(settings, q=settings.q[:0], k=settings.k[:0], v=settings.v[:0]),
    )


def _part(module: nn.Module, name: str) -> Any:
    part = getattr(module, name, None)
    if part is None:
        raise NoMatch(f"{type(module).__name__} has no {name}")
    return part


def _only(module: nn.Module, known: set[str]) -> None:
    """Raise for a module with parts of its own that we know nothing of."""
    other = {name for name, _ in module.named_children()} - known
    other |= {name for name, _ in module.named_parameters(recurse=False)} - {"sinks"}
    if other:
        raise NoMatch(f"{type(module).__name__} has {', '.join(sorted(other))}")


def _linear(module: nn.Module, weights: dict[nn.Module, PanelWeight]) -> Linear:
    if module not in weights:
        raise NoMatch(f"{type(module).__name__} is no plain linear layer")
    return Linear(weights[module], module.bias)  # type: ignore[arg-type]


def _linears(
    module: nn.Module,
    names: tuple[str, ...],
    joint: str,
    sizes: tuple[int, ...],
    weights: dict[nn.Module, PanelWeight],
) -> list[Linear]:
    """Projections by their names, or cut out of the one that holds them all."""
    if not hasattr(module, joint):
        return [_linear(_part(module, name), weights) for name in names]
    whole, start, parts = _linear(getattr(module, joint), weights), 0, []
    if whole.weight.outputs != sum(sizes):
        raise NoMatch(f"{joint} has {whole.weight.outputs} outputs, not {sum(sizes)}")
    for size in sizes:
        weight = whole.weight.rows(start, start + size)
        bias = whole.bias
        parts.append(Linear(weight, None if bias is None else bias[start : start + size]))
        start += size
    return parts


def _norm(module: nn.Module, size: int | None = None) -> Norm:
    """An RMS norm, with the weight that it really multiplies by: its own, or 1 plus it (Gemma)."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(eps, float):
        raise NoMatch(f"{type(module).__name__} is no RMS norm")
    if size is not None and weight.numel() != size:
        raise NoMatch(f"{type(module).__name__} spans {weight.numel()} numbers, a head has {size}")
    x = _noise(1, weight.numel())
    for factor in (weight, 1.0 + weight):
        norm = Norm(factor.detach(), eps)
        if torch.allclose(norm(x), module(x), rtol=1e-4, atol=1e-5):
            return norm
    raise NoMatch(f"{type(module).__name__} is no RMS norm")


def _activation(act: Callable[[Tensor], Tensor] | None) -> str:
    if act is None:
        raise NoMatch("the MLP names no activation")
    x = _noise(1, 64) * 3
    ours = (functional.silu(x), functional.gelu(x, approximate="tanh"), functional.gelu(x))
    for name, y in zip(ACTIVATIONS, ours, strict=True):
        if torch.allclose(act(x), y, rtol=1e-5, atol=1e-6):
            return name
    raise NoMatch(f"{type(act).__name__} is not one of {', '.join(ACTIVATIONS)}")


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
