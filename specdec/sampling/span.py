"""Span: tokens of a prompt that are read as embeddings, such as those of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor

from specdec.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Span:
    """`length` tokens from `start` on, whose ids only hold the place.

    embeddings: what the first layer is given in their place, `[length, hidden]`; or a function that
        makes it when it is first read, as a vision tower does; then `length` and `digest` are
        given.
    digest: tells this content from every other; by default one of the embeddings' bytes.
    bidirectional: whether its tokens see each other in both directions, as Gemma 3's image tokens
        do; otherwise they are causal.
    deepstack: `[length, hidden]` each, added to the output of the first layers, as in Qwen3-VL.
    """

    start: int
    embeddings: Tensor | Callable[[], Tensor]
    length: int = -1
    digest: bytes = b""
    bidirectional: bool = False
    deepstack: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.start, int) or self.start < 0:
            raise InvalidArgument(f"a span starts at {self.start!r}: give a place from 0 on")
        if isinstance(self.embeddings, Tensor):
            self._check(self.embeddings, "embeddings")
        elif self.length < 1 or not self.digest:
            raise InvalidArgument(
                f"the span at {self.start} has a function for embeddings: give its length, and a "
                "digest of what it is made of"
            )
        for features in self.deepstack:
            self._check(features, "deepstack")
        object.__setattr__(self, "deepstack", tuple(self.deepstack))
        if not self.digest:
            object.__setattr__(self, "digest", digest_of([self.read(), *self.deepstack]))

    def _check(self, x: Tensor, name: str) -> None:
        if x.dim() != 2 or not x.is_floating_point() or not len(x):
            raise InvalidArgument(
                f"{name} of the span at {self.start} are {x.dtype} of shape {tuple(x.shape)}: give "
                "floating-point numbers [length, hidden]"
            )
        if self.length < 0:
            object.__setattr__(self, "length", len(x))
        if len(x) != self.length:
            raise InvalidArgument(
                f"{name} of the span at {self.start} are of {len(x)} tokens, and it has "
                f"{self.length}"
            )

    @property
    def end(self) -> int:
        """The place behind its last token."""
        return self.start + self.length

    @cached_property
    def identity(self) -> bytes:
        """Of all that its keys and values depend on, its place apart."""
        kind = f"{self.length} {self.bidirectional} {len(self.deepstack)} ".encode()
        return blake2b(kind + self.digest, digest_size=16).digest()

    def read(self) -> Tensor:
        """The embeddings `[length, hidden]`; if a function makes them, now and once."""
        return self.embeddings if isinstance(self.embeddings, Tensor) else self._made

    @cached_property
    def _made(self) -> Tensor:
        assert not isinstance(self.embeddings, Tensor)
        made = self.embeddings()
        self._check(made, "embeddings")
        return made


def digest_of(tensors: Sequence[Tensor]) -> bytes:
    """Of shapes, types and bytes."""
    known = blake2b(digest_size=16)
    for x in tensors:
        known.update(f"{tuple(x.shape)} {x.dtype} ".encode())
        known.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return known.digest()
