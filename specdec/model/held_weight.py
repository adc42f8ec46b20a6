"""HeldWeight: a module whose weight is held in panels, and is dense for whoever saves it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from specdec.errors import SpecdecError
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.model.released import panels_of, release

_MADE_OF = "_specdec_made_of"  # on a dense copy: the panels, so that tied weights share one


class HeldWeight:
    """A linear layer or embedding with `weight` in the place of its dense one.

    own: the parameter that stands there now. `restore` gives the module a dense one back.
    """

    def __init__(self, module: nn.Module, weight: PanelWeight) -> None:
        self.module, self.weight = module, weight
        if panels_of(module.weight) is not weight:
            module.weight = release(weight)
        self.own = module.weight
        self.hooks: list[Any] = [
            module.register_state_dict_post_hook(_with_dense),
            module.register_load_state_dict_pre_hook(refuse_loading),
        ]

    @property
    def is_current(self) -> bool:
        """Whether the panels are the module's weight: asked in every pass."""
        return self.module._parameters.get("weight") is self.own

    def restore(self, dense: nn.Parameter | None = None) -> nn.Parameter | None:
        """Give the module a dense weight, unless somebody has given it another one, and return it;
        dense: made for a module that shares it."""
        for hook in self.hooks:
            hook.remove()
        if self.is_current:
            dense = self.dense() if dense is None else dense
            self.module.weight = dense
        return dense

    def dense(self) -> nn.Parameter:
        """A dense copy."""
        return nn.Parameter(self.weight.dense(), requires_grad=False)


def refuse_loading(*_: Any) -> None:
    """A hook of whatever holds packed weights: loading would leave them as they are."""
    raise SpecdecError(
        "the weights of this model are packed for specdec: call Engine.packing.restore() "
        "before you load others, and make a new Engine"
    )


def _with_dense(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Put a dense copy in a state, one for weights that are tied."""
    key = prefix + "weight"
    panels = panels_of(state.get(key))
    if panels is None:
        return
    made = (x for x in state.values() if getattr(x, _MADE_OF, None) is panels)
    dense = next(made, None)
    if dense is None:
        dense = panels.dense()
        setattr(dense, _MADE_OF, panels)
    state[key] = dense
