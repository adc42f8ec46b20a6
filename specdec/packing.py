"""Packing: a model laid out for fast passes on a CPU, and turned back when asked."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.errors import SpecdecError
from specdec.forward_pass import AttentionCall, ForwardPass
from specdec.fused_layer import FusedLayer, NoMatch, recognise
from specdec.fused_run import RunLayer, forwards
from specdec.kernels.dispatch import has_numba
from specdec.kernels.panel_weight import PanelWeight, pack
from specdec.kernels.skinny_linear import skinny_linear
from specdec.view import FullView

log = logging.getLogger("specdec")
TOLERANCE = 1e-3  # of the largest output; float32 rounding stays a hundred times below it


@dataclass
class Packing:
    """Which linear layers of a model read packed weights, and which decoder layers are fused.

    `of` packs every float32 `nn.Linear` on the CPU in place: the values stay the same bits, the
    first layout is released except where an embedding shares it. `fuse` then puts fused forwards
    on the decoder layers that match, each one compared with the layer's own. `restore` undoes
    both. Nothing of transformers is changed, only attributes of this model's modules.

    A packed model is saved and copied as what it was: `state_dict`, `save_pretrained` and
    `copy.deepcopy` see dense weights, made for them. Loading other weights into it is refused.
    """

    model: PreTrainedModel
    weights: dict[nn.Module, PanelWeight] = field(default_factory=dict)
    fused: dict[int, FusedLayer] = field(default_factory=dict)
    forwards: dict[int, FusedLayer | RunLayer] = field(default_factory=dict)
    hooks: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, model: PreTrainedModel, stored: Mapping[str, PanelWeight] | None = None) -> Packing:
        """Pack a model's linear layers. stored: those in the precision of their file, by name."""
        packing = cls(model)
        linears = {
            name: module
            for name, module in model.named_modules()
            if type(module) is nn.Linear and _can_pack(module)
        }
        if not linears or not has_numba():
            return packing
        embeddings = model.get_input_embeddings()
        for name, module in linears.items():
            weight = (stored or {}).get(name) or pack(module.weight)
            keep = embeddings is not None and module.weight is embeddings.weight
            packing.hooks += _use(module, weight, keep)
            packing.weights[module] = weight
        model.__deepcopy__ = packing._copied  # type: ignore[assignment]
        return packing

    def fuse(self, target: Any, pass_of: Callable[[Any], tuple[list[int], ForwardPass]]) -> None:
        """Fuse the layers that match. pass_of: makes tokens and a pass for a probe of `target`."""
        layers = getattr(self.model.base_model, "layers", None)
        if not self.weights or not isinstance(layers, nn.ModuleList):
            return
        probe = _Probe()
        hooks = [layer.register_forward_hook(probe.note, with_kwargs=True) for layer in layers]
        tokens, pass_ = pass_of(probe)
        try:
            target.forward([tokens], pass_)
        finally:
            for hook in hooks:
                hook.remove()
        reasons: Counter[str] = Counter()
        for index, layer in enumerate(layers):
            try:
                self.fused[index] = _proven(layer, probe.calls[index], probe.seen[layer], self)
            except NoMatch as error:
                reasons[str(error)] += 1
        self.forwards = forwards({i: (layers[i], fused) for i, fused in self.fused.items()})
        for index, forward in self.forwards.items():
            layers[index].forward = forward
        for reason, count in reasons.items():
            log.info("%d of %d layers keep their own forward: %s", count, len(layers), reason)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of linear weights that a pass reads, by storage format; the largest first."""
        counts: Counter[str] = Counter()
        for weight in self.weights.values():
            counts[weight.format] += weight.nbytes
        return dict(counts.most_common())

    def __str__(self) -> str:
        """As in "98 MB a pass: int4affine 66 MB, int8 32 MB; 30 layers fused"."""
        parts = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in self.nbytes.items())
        total = sum(self.nbytes.values()) / 1e6
        return f"{total:.0f} MB a pass: {parts or 'none packed'}; {len(self.fused)} layers fused"

    def restore(self) -> None:
        """Give the model its own forwards and dense weights back."""
        if not self.weights:
            return
        layers: Any = getattr(self.model.base_model, "layers", None)
        for hook in self.hooks:
            hook.remove()
        for index in self.fused:
            del layers[index].forward
        for module, weight in self.weights.items():
            del module.forward
            if _is_released(module):
                module.weight = nn.Parameter(weight.dense(), requires_grad=False)
        del self.model.__deepcopy__
        self.fused, self.forwards, self.weights, self.hooks = {}, {}, {}, []

    def _copied(self, memo: dict[int, Any]) -> PreTrainedModel:
        """A deep copy of the model with its own forwards and dense weights: `copy.deepcopy`."""
        twin = nn.Module.__new__(type(self.model))
        memo[id(self.model)] = twin
        for module, weight in self.weights.items():
            if _is_released(module):
                memo[id(module.weight)] = nn.Parameter(weight.dense(), requires_grad=False)
        memo |= {id(forward): None for forward in self.forwards.values()}
        parts = {key: x for key, x in vars(self.model).items() if key != "__deepcopy__"}
        twin.__dict__.update(copy.deepcopy(parts, memo))
        for module in twin.modules():
            module.__dict__.pop("forward", None)
            for hook in self.hooks:
                module._state_dict_hooks.pop(hook.id, None)
                module._load_state_dict_pre_hooks.pop(hook.id, None)
        return twin


class _Probe(FullView):
    """Notes what each layer is called with, what it gives, and how it calls attention."""

    def __init__(self) -> None:
        self.calls: dict[int, AttentionCall] = {}
        self.seen: dict[nn.Module, tuple[Tensor, dict[str, Any], Tensor]] = {}

    def attend(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        self.calls[call.layer] = call
        return super().attend(pass_, call)

    def note(self, layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.seen[layer] = (hidden.clone(), kwargs, output)


@torch.inference_mode()
def _proven(
    layer: nn.Module,
    settings: AttentionCall,
    seen: tuple[Tensor, dict[str, Any], Tensor],
    packing: Packing,
) -> FusedLayer:
    """The fused form of a layer, which gives what the layer itself gave; raises NoMatch."""
    hidden, kwargs, output = seen
    if not isinstance(output, Tensor) or not isinstance(kwargs.get("position_embeddings"), tuple):
        raise NoMatch(f"{type(layer).__name__} is called in a way we do not know")
    fused = recognise(layer, settings, packing.weights)
    kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    ours = fused(hidden, **kwargs)
    gap, scale = (ours - output).abs().max().item(), output.abs().max().item()
    if not gap <= TOLERANCE * max(scale, 1e-3):
        raise NoMatch(f"{type(layer).__name__} differs by {gap:.1g} from its fused form")
    return fused


def _can_pack(module: nn.Linear) -> bool:
    """Plain matrices only: not what accelerate moves about, which has a forward of its own, what
    ranks share, or what a library has quantised behind a tensor of its own."""
    weight = module.weight
    is_ours = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.dim() == 2
    return is_ours and type(weight.data) is torch.Tensor and not hasattr(module, "_hf_hook")


def _is_released(module: nn.Module) -> bool:
    return module.weight.numel() == 0  # type: ignore[operator]


def _use(module: nn.Linear, weight: PanelWeight, keep: bool) -> list[Any]:
    """Put a packed weight in place of a dense one; the hooks that say so to who saves or loads."""
    if not keep:
        module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)

    def forward(x: Tensor) -> Tensor:
        return skinny_linear(x, weight, module.bias)

    def unpack(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
        if _is_released(module):
            state[prefix + "weight"] = weight.dense()

    def refuse(*_: Any) -> None:
        raise SpecdecError(
            "the weights of this model are packed for specdec: call Engine.packing.restore() "
            "before you load others, and make a new Engine"
        )

    module.forward = forward  # type: ignore[method-assign, assignment]
    return [
        module.register_state_dict_post_hook(unpack),
        module.register_load_state_dict_pre_hook(refuse),
    ]
