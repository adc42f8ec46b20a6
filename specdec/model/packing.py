"""Packing: a model laid out for fast passes on a CPU, and turned back when asked."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.observer import SeenPass
from specdec.kernels.dispatch import has_numba
from specdec.kernels.linear.decoder_run import LANES
from specdec.kernels.linear.packed_weight import PanelWeight, pack
from specdec.model.fused_layer import FusedLayer, NoMatch, recognise
from specdec.model.fused_run import RunLayer, forwards
from specdec.model.held_weight import HeldWeight, refuse_loading
from specdec.model.packed_linear import PackedLinear
from specdec.model.released import is_released, panels_of
from specdec.model.released_experts import HeldExperts, experts_in
from specdec.model.snapshot import has_hooks
from specdec.model.text_part import decoder_of, layers_of
from specdec.model.watch import Watch

log = logging.getLogger("specdec")
TOLERANCE = 1e-3  # of the largest output; float32 rounding stays a hundred times below it
# Where activations are rounded, one that lies between two steps may go to either: a layer is
# compared again so often, with other inputs, and has to agree once.
TRIALS = 5


@dataclass
class Packing:
    """Which linear layers of a model read packed weights, and which decoder layers are fused.

    copies: what others make of the model, for as long as it is packed (`draft_weights`).

    `of` packs every float32 `nn.Linear` that text goes through on the CPU in place: the values stay
    the same bits, the first layout is released. An embedding that shares a weight, or whose weight
    came in panels, looks its rows up there. `fuse` then puts fused forwards on the decoder layers
    that match, each one compared with the layer's own. `restore` undoes both. Nothing of
    transformers is changed, only attributes of this model's modules.

    A packed model is saved and copied as what it was: `state_dict`, `save_pretrained` and
    `copy.deepcopy` see dense weights, made for them. Loading other weights into it is refused, and
    so is changing what was released; hooks, other parts and other weights take effect (`Watch`).
    """

    model: PreTrainedModel
    linears: dict[nn.Module, PackedLinear] = field(default_factory=dict)
    experts: list[HeldExperts] = field(default_factory=list)
    embedding: HeldWeight | None = None
    fused: dict[int, FusedLayer] = field(default_factory=dict)
    forwards: dict[int, RunLayer] = field(default_factory=dict)
    hooks: list[Any] = field(default_factory=list)
    watch: Watch | None = None
    copies: dict[Hashable, PreTrainedModel] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PreTrainedModel) -> Packing:
        """Pack a model's linear layers; those whose weights are `Released` keep their panels.

        A model that is packed already keeps the packing that it has.
        """
        known = cls.on(model)
        if known is not None:
            return known
        packing = cls(model)
        text = {*decoder_of(model).modules(), model.get_output_embeddings()}
        linears = [
            module for module in model.modules()
            if module in text and type(module) is nn.Linear and _can_pack(module)
        ]  # fmt: skip
        if not linears or not has_numba():
            return packing
        model.__deepcopy__ = packing._copied  # type: ignore[assignment]
        try:
            for part in dict.fromkeys((model, model.base_model)):  # before a part is loaded
                packing.hooks.append(part.register_load_state_dict_pre_hook(refuse_loading))
            for module in linears:
                packing._pack(module)
            packing._hold(model.get_input_embeddings())
            packing.experts = [HeldExperts(x) for x in model.modules() if experts_in(x)]
        except BaseException:
            packing.restore()
            raise
        return packing

    @classmethod
    def on(cls, model: PreTrainedModel) -> Packing | None:
        """The packing that a model has, if any."""
        packing = getattr(vars(model).get("__deepcopy__"), "__self__", None)
        return packing if isinstance(packing, cls) else None

    def _pack(self, module: nn.Linear) -> None:
        """A linear layer, and the embedding that its weight is tied to."""
        dense, embedding = module.weight, self.model.get_input_embeddings()
        self.linears[module] = PackedLinear(module, panels_of(dense) or pack(dense))
        if embedding is not None and embedding.weight is dense:
            embedding.weight = module.weight

    def _hold(self, embedding: nn.Module | None) -> None:
        panels = None if embedding is None else panels_of(embedding._parameters.get("weight"))
        if embedding is not None and panels is not None:
            self.embedding = HeldWeight(embedding, panels)

    @property
    def held(self) -> list[HeldWeight]:
        """All modules whose weights are in panels; the embedding first, which others may share."""
        return [*([self.embedding] if self.embedding else []), *self.linears.values()]

    @property
    def weights(self) -> dict[nn.Module, PanelWeight]:
        """The packed weight of every linear layer that has one."""
        return {module: linear.weight for module, linear in self.linears.items()}

    def fuse(self, target: Any, pass_of: Callable[[Any], tuple[list[int], ForwardPass]]) -> None:
        """Fuse the layers that match. pass_of: makes tokens and a pass for a probe of `target`."""
        base, layers = decoder_of(self.model), layers_of(self.model)
        if not self.linears or self.watch is not None or layers is None:
            return
        probe = _Probe()
        hooks = [layer.register_forward_hook(probe.note, with_kwargs=True) for layer in layers]
        try:
            tokens, pass_ = pass_of(probe)
            target.forward([tokens], pass_)
        finally:
            for hook in hooks:
                hook.remove()
        reasons: Counter[str] = Counter()
        for index, layer in enumerate(layers):
            try:
                self.fused[index] = _proven(layer, probe, index, self)
            except NoMatch as error:
                reasons[str(error)] += 1
        self.watch = Watch(base, {layers[i]: fused for i, fused in self.fused.items()})
        found = {i: (layers[i], fused) for i, fused in self.fused.items()}
        self.forwards = forwards(found, self.watch)
        for index, forward in self.forwards.items():
            layers[index].forward = forward
        self.watch.start()
        for reason, count in reasons.items():
            log.info("%d of %d layers keep their own forward: %s", count, len(layers), reason)

    def begin(self) -> None:
        """Look whether copied weights are what they were; a generation begins."""
        if self.watch is not None:
            self.watch.begin()

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of linear weights that a pass reads, by storage format; the largest first."""
        counts: Counter[str] = Counter()
        for weight in (linear.weight for linear in self.linears.values()):
            counts[weight.format] += weight.nbytes
        return dict(counts.most_common())

    @property
    def memory(self) -> int:
        """Bytes of all panels, those of an embedding and of experts included."""
        held = sum(p.nbytes for p in {id(x.weight): x.weight for x in self.held}.values())
        return held + sum(self.experts_nbytes.values())

    @property
    def experts_nbytes(self) -> dict[str, int]:
        """Bytes of all experts in panels, by storage format; a pass reads those that it chooses."""
        counts: Counter[str] = Counter()
        for panels in (p for held in self.experts for p in held.panels):
            counts[panels.format] += panels.nbytes
        return dict(counts.most_common())

    @property
    def activations(self) -> str:
        """ "int8" where products round their inputs to 8 bits, else "float32"."""
        is_rounded = any(linear.weight.is_stored for linear in self.linears.values())
        return "int8" if is_rounded else "float32"

    def keeps_bits(self, layers: int) -> bool:
        """Whether keys, values and logits of a token have the same bits in any pass of so many
        layers: all products are of whole numbers, and what stands between them is in our kernels,
        which sum in one order."""
        if len(self.fused) != layers or not all(x.weight.is_stored for x in self.linears.values()):
            return False
        return all(x.inputs.head_dim % LANES == 0 for x in self.fused.values())

    def __str__(self) -> str:
        """As in "98 MB a pass: q4_k 66 MB, q6_k 32 MB; activations int8; 30 layers fused"."""
        sizes = self.nbytes
        parts = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items())
        total = sum(sizes.values()) / 1e6
        experts = ", ".join(f"{name} {x / 1e6:.0f} MB" for name, x in self.experts_nbytes.items())
        return (
            f"{total:.0f} MB a pass: {parts or 'none packed'}; "
            + (f"experts {experts}; " if experts else "")
            + f"activations {self.activations}; {len(self.fused)} layers fused"
        )

    def restore(self) -> None:
        """Give the model its own forwards and dense weights back.

        What others have done to its modules since, they keep.
        """
        for hook in self.hooks:
            hook.remove()
        for forward in self.forwards.values():
            layer = forward.run.modules[forward.place]
            if vars(layer).get("forward") is forward:
                del layer.forward
        made: dict[int, nn.Parameter | None] = {}
        for held in self.held:
            key = id(held.own)
            made[key] = held.restore(made.get(key))
        for experts in self.experts:
            experts.restore()
        vars(self.model).pop("__deepcopy__", None)
        if self.watch is not None:
            self.watch.end()
        self.fused, self.forwards, self.linears, self.hooks = {}, {}, {}, []
        self.embedding, self.experts = None, []
        self.copies.clear()

    def _copied(self, memo: dict[int, Any]) -> PreTrainedModel:
        """A deep copy of the model with its own forwards and dense weights: `copy.deepcopy`."""
        twin = nn.Module.__new__(type(self.model))
        memo[id(self.model)] = twin
        for held in self.held:
            if is_released(held.module.weight) and id(held.module.weight) not in memo:
                memo[id(held.module.weight)] = held.dense()
        for x in (x for held in self.experts for x in experts_in(held.module).values()):
            memo[id(x)] = x.dense()
        ours = [*self.linears.values(), *self.forwards.values()]
        memo |= {id(forward): forward for forward in ours}
        parts = {key: x for key, x in vars(self.model).items() if key != "__deepcopy__"}
        twin.__dict__.update(copy.deepcopy(parts, memo))
        hooks = [*self.hooks, *(hook for x in self.held for hook in x.hooks)]
        hooks += [hook for x in self.experts for hook in x.hooks]
        for module in twin.modules():
            if vars(module).get("forward") in ours:
                del module.forward
            for hook in hooks:
                module._state_dict_hooks.pop(hook.id, None)
                module._load_state_dict_pre_hooks.pop(hook.id, None)
        return twin


class _Probe:
    """Notes what each layer is called with, what it gives, and how it calls attention."""

    def __init__(self) -> None:
        self.calls: dict[int, AttentionCall] = {}
        self.seen: dict[nn.Module, tuple[Tensor, dict[str, Any], Tensor]] = {}

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        self.calls[call.layer] = call

    def note(self, layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.seen[layer] = (hidden.clone(), kwargs, output)


@torch.inference_mode()
def _proven(layer: nn.Module, probe: _Probe, index: int, packing: Packing) -> FusedLayer:
    """The fused form of a layer, which gives what the layer itself gave; raises NoMatch."""
    for module in layer.modules():
        if module is not layer and has_hooks(module):
            raise NoMatch(f"a hook hangs on {type(module).__name__}")
        if "forward" in vars(module) and module not in packing.linears:
            raise NoMatch(f"{type(module).__name__} has a forward that was put in place of its own")
    if layer not in probe.seen or index not in probe.calls:
        raise NoMatch(f"{type(layer).__name__} is not called, or does not call our attention")
    hidden, kwargs, output = probe.seen[layer]
    if not isinstance(output, Tensor) or not isinstance(kwargs.get("position_embeddings"), tuple):
        raise NoMatch(f"{type(layer).__name__} is called in a way we do not know")
    fused = recognise(layer, probe.calls[index], packing.weights)
    kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    gap = _gap(fused(hidden, **kwargs), output)
    random = torch.Generator().manual_seed(index)
    for _ in range(TRIALS if packing.activations == "int8" else 0):
        if gap <= TOLERANCE:
            break
        x = hidden * (torch.rand(hidden.shape[-1], generator=random) + 0.5)
        gap = _gap(fused(x, **kwargs), layer(x, **kwargs))
    if not gap <= TOLERANCE:
        raise NoMatch(f"{type(layer).__name__} differs by {gap:.1g} from its fused form")
    return fused


def _gap(ours: Tensor, output: Tensor) -> float:
    """The largest difference, against the largest output."""
    return float((ours - output).abs().max() / output.abs().max().clamp_min(1e-3))


def _can_pack(module: nn.Linear) -> bool:
    """Plain matrices, and panels: not what accelerate or others call by a forward of their own,
    what ranks share, what is worked out from other weights, or what a library has quantised behind
    a tensor of its own."""
    weight = module._parameters.get("weight")
    if weight is None or "forward" in vars(module) or hasattr(module, "_hf_hook"):
        return False
    if is_released(weight):
        return True
    is_ours = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.dim() == 2
    return is_ours and type(weight.data) is torch.Tensor
