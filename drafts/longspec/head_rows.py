"""Rows of a target's LM head, in whatever layout its weights are held."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.model.released import is_released
from specdec.model.target import Target

_STEP = 256  # unit vectors of one product, so that a large vocabulary fits into memory


@torch.no_grad()
def head_rows(target: Target, ids: Tensor) -> Tensor:
    """The weights `[len(ids), hidden]` with which the head scores tokens `ids`.

    Read from the weight matrix where there is one, else by asking the head about unit vectors: a
    packed or quantised head answers with the weights that it really uses.
    """
    head = target.model.get_output_embeddings()
    assert head is not None
    size = int(target.model.config.get_text_config().hidden_size)
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor) and _is_plain(weight, (target.vocab_size, size)):
        return weight[ids.to(weight.device)].clone()
    units = torch.eye(size, device=target.device, dtype=target.dtype)
    zero = head(torch.zeros_like(units[:1]))[:, ids]
    columns = [head(units[at : at + _STEP])[:, ids] - zero for at in range(0, size, _STEP)]
    return torch.cat(columns).T.contiguous()


def _is_plain(weight: Tensor, shape: tuple[int, int]) -> bool:
    """Whether a weight is of this shape and has its numbers with it."""
    return weight.shape == shape and not is_released(weight)
