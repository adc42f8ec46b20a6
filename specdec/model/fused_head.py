"""FusedHead: an LM head that names the best token of each row without writing its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from specdec.kernels.linear.head_argmax import head_argmax
from specdec.model.packing import Packing
from specdec.model.snapshot import has_global_hooks, has_hooks


@dataclass(frozen=True, eq=False)
class FusedHead:
    """The packed LM head of a model whose logits are this layer's outputs and nothing else.

    A scale, a cap or a hook behind it keeps a model's own path: `of` compares on a probe, and
    `is_usable` looks for what has been hung on the model since.
    """

    packing: Packing
    module: nn.Linear

    @classmethod
    @torch.inference_mode()
    def of(cls, packing: Packing, inputs: dict[str, Any], logits: Tensor) -> FusedHead | None:
        """The head of a packed model that gives `logits` for `inputs`; None if it is not plain."""
        module = packing.model.get_output_embeddings()
        if not isinstance(module, nn.Linear) or module not in packing.linears:
            return None
        head = cls(packing, module)
        return head if torch.equal(module(head._hidden(inputs)), logits) else None

    @property
    def is_usable(self) -> bool:
        """Whether the head is still packed, and nobody else looks at its outputs or the model's."""
        model, linear = self.packing.model, self.packing.linears.get(self.module)
        if linear is None or not linear.is_current or not linear.is_in_place:
            return False
        if has_global_hooks() or has_hooks(self.module) or has_hooks(model):
            return False
        return "forward" not in vars(model) and model.get_output_embeddings() is self.module

    def __call__(self, inputs: dict[str, Any]) -> Tensor:
        """The first of the largest logits, `int64[B, N]`: what argmax of the model's own gives; -1
        where they are no numbers."""
        weight = self.packing.linears[self.module].weight
        return head_argmax(self._hidden(inputs), weight, self.module.bias)

    def _hidden(self, inputs: dict[str, Any]) -> Tensor:
        hidden: Tensor = self.packing.model.base_model(**inputs)[0]
        return hidden
