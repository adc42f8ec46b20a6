"""ReleasedExperts: the matrices of all experts of a layer, held in panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.model.held_weight import refuse_loading
from specdec.model.released import InPanels

# Of one expert: panels whose rows stand one after the other, as of a gate and an up projection.
Expert = tuple[PanelWeight, ...]


class ReleasedExpert(InPanels):
    """One expert's matrix `[outputs, inputs]`, to be multiplied by: `functional.linear`."""

    panels: Expert

    @staticmethod
    def shape_of(panels: Expert) -> tuple[int, ...]:
        return sum(part.outputs for part in panels), panels[0].inputs

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.linear and len(args) == 2 and not kwargs:
            x, weight = args
            parts = [skinny_linear(x.contiguous(), part) for part in weight.panels]
            return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return super().__torch_function__(func, types, args, kwargs or {})


class ReleasedExperts(InPanels):
    """All experts' matrices `[experts, outputs, inputs]`: indexed by one of them, as transformers'
    plain ("eager") forward does, it gives that one's."""

    panels: tuple[Expert, ...]

    @staticmethod
    def shape_of(panels: tuple[Expert, ...]) -> tuple[int, ...]:
        return len(panels), *ReleasedExpert.shape_of(panels[0])

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__getitem__ and _is_one(args[1]):
            return ReleasedExpert(args[0].panels[int(args[1])])
        return super().__torch_function__(func, types, args, kwargs or {})

    def dense(self) -> nn.Parameter:
        """A dense copy."""
        each = [torch.cat([part.dense() for part in expert]) for expert in self.panels]
        return nn.Parameter(torch.stack(each), requires_grad=False)


def release_experts(experts: Sequence[Expert]) -> nn.Parameter:
    """The parameter of a module whose experts are held in panels."""
    with torch.inference_mode(False):
        return nn.Parameter(ReleasedExperts(tuple(experts)), requires_grad=False)


class HeldExperts:
    """A module with `ReleasedExperts`, which are dense for whoever saves it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.own = module, experts_in(module)
        self.hooks: list[Any] = [
            module.register_state_dict_post_hook(_with_dense),
            module.register_load_state_dict_pre_hook(refuse_loading),
        ]

    @property
    def panels(self) -> list[PanelWeight]:
        return [part for x in self.own.values() for expert in x.panels for part in expert]

    def restore(self) -> None:
        """Give the module dense weights, where nobody has given it others."""
        for hook in self.hooks:
            hook.remove()
        for leaf, x in self.own.items():
            if getattr(self.module, leaf) is x:
                setattr(self.module, leaf, x.dense())


def experts_in(module: nn.Module) -> dict[str, ReleasedExperts]:
    """Parameters of a module, its parts' left out, that are experts in panels."""
    found: dict[str, Any] = dict(module._parameters)
    return {name: x for name, x in found.items() if isinstance(x, ReleasedExperts)}


def _is_one(index: object) -> bool:
    is_number = isinstance(index, Tensor) and index.dim() == 0 and index.dtype != torch.bool
    return is_number or type(index) is int


def _with_dense(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Put dense copies in a state."""
    for leaf in module._parameters:
        x = state.get(prefix + leaf)
        if isinstance(x, ReleasedExperts):
            state[prefix + leaf] = x.dense()
