"""Prompt: what a text begins with: token ids, what stands in place of some, and their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.plain import plain
from specdec.sampling.span import Span

MARK = 1 << 62  # keys from here on are no token ids
_DIMENSIONS = (1, 3)  # of positions: one, or time, height and width


@dataclass(frozen=True, eq=False)
class Prompt:
    """Token ids; `spans`, in place of whose ids embeddings are read; and where the tokens stand.

    positions: `int64[D, n]` or `[n]`, by which the model rotates its tokens; D is 3 for models with
    positions in time, height and width. By default 0, 1, 2 ... in every dimension. Text goes on
    from the largest position + 1. Windows and pages go by places in the text all the same.
    """

    ids: list[int]
    spans: Sequence[Span] = ()
    positions: Tensor | None = None

    def __post_init__(self) -> None:
        ids: Any = plain(self.ids)
        if not isinstance(ids, (list, tuple)) or any(type(token) is not int for token in ids):
            raise InvalidArgument("Prompt takes token ids: a list of whole numbers, or a 1-D array")
        spans = sorted(self.spans, key=lambda span: span.start)
        before = 0
        for span in spans:
            if span.start < before or span.end > len(ids):
                raise InvalidArgument(
                    f"the span at {span.start} of {span.length} tokens overlaps another one, or "
                    f"leaves the prompt of {len(ids)} tokens"
                )
            before = span.end
        object.__setattr__(self, "ids", list(ids))
        object.__setattr__(self, "spans", tuple(spans))
        object.__setattr__(self, "positions", self._positions(self.positions))

    def _positions(self, given: Any) -> Tensor | None:
        """`int64[D, n]` on the host; None where they are those of plain text."""
        if given is None:
            return None
        places = torch.as_tensor(given)
        places = places[None] if places.dim() == 1 else places
        if places.dim() != 2 or places.shape[1] != len(self.ids):
            raise InvalidArgument(
                f"positions are of shape {tuple(places.shape)}, and the prompt has {len(self.ids)} "
                "tokens: give [n], or [3, n]"
            )
        if places.shape[0] not in _DIMENSIONS:
            raise InvalidArgument(f"positions are of {places.shape[0]} dimensions: give 1 or 3")
        if places.is_floating_point() or places.dtype == torch.bool or bool((places < 0).any()):
            raise InvalidArgument("positions are no whole numbers from 0 on")
        places = places.detach().to("cpu", torch.int64)
        is_plain = torch.equal(places, torch.arange(len(self.ids)).expand_as(places))
        return None if is_plain else places

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but ids to it."""
        return not self.spans and self.positions is None

    @property
    def offset(self) -> int:
        """What is added to the place of a token behind the prompt to have its position."""
        last = len(self.ids) - 1 if self.positions is None else int(self.positions.max())
        return last + 1 - len(self.ids)

    @cached_property
    def keys(self) -> list[int]:
        """What tells each token from others: its id; from MARK on, where it is part of a span or
        stands elsewhere than its place says, a number of content and position."""
        keys = list(self.ids)
        for span in self.spans:
            for i in range(span.length):
                keys[span.start + i] = _key(span.identity + i.to_bytes(8, "little"))
        if self.positions is not None:
            for place, position in enumerate(self.positions.T.tolist()):
                if any(x != place for x in position):
                    keys[place] = _key(f"{keys[place]} at {position}".encode())
        return keys


def _key(content: bytes) -> int:
    """62 bits of a digest, above MARK."""
    return MARK | int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 2
