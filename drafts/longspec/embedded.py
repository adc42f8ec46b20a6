"""Embedded: the embeddings of tokens that a drafter asks for again and again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.model.target import Target

_KEPT = 512  # embeddings; in float32 a MB for 512 features


class Embedded:
    """A target's embeddings in `dtype`, zeros for token -1.

    A draft token is asked for as itself, as the one before the next, and once more when it is text.
    In packed weights it is decoded number by number, so the last ones are kept in host memory.
    """

    def __init__(self, target: Target, dtype: torch.dtype) -> None:
        embedding = target.model.get_input_embeddings()
        assert embedding is not None
        self._embedding, self._dtype, self._device = embedding, dtype, target.device
        self._places: dict[int, int] = {}
        self._table: Tensor | None = None

    def of(self, tokens: Sequence[int]) -> Tensor:
        """`[len(tokens), hidden]`, not to be changed."""
        fresh = {token: 0 for token in tokens if token not in self._places}
        if self._device.type != "cpu" or len(fresh) > _KEPT // 2:
            return self._looked_up(list(tokens))
        if fresh:
            if self._table is None or len(self._places) + len(fresh) > _KEPT:
                self._places, fresh = {}, dict.fromkeys(tokens, 0)
            found = self._looked_up(list(fresh))
            if self._table is None:
                self._table = found.new_empty(_KEPT, found.shape[1])
            first = len(self._places)
            self._table[first : first + len(fresh)] = found
            self._places |= {token: first + i for i, token in enumerate(fresh)}
        assert self._table is not None
        return self._table[torch.tensor([self._places[token] for token in tokens])]

    def _looked_up(self, tokens: list[int]) -> Tensor:
        ids = torch.tensor([max(token, 0) for token in tokens], device=self._device)
        x: Tensor = self._embedding(ids).to(self._dtype)
        if min(tokens) < 0:
            x = x * torch.tensor([[float(token >= 0)] for token in tokens]).to(x)
        return x
