"""QueryRecorder: queries that pass by anyway, kept for those who select what a draft reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall


@dataclass
class QueryRecorder:
    """The last queries of each prompt, and those of the last verification pass: an `Observer`.

    window: how many queries of a prompt to keep; verified: whether to keep those of verification.
    `prompt[(layer, row of level 0)]` is `[H, <= window, D]`; `accepted(layer, sequence)` gives the
    queries of the nodes that the text went through.
    """

    window: int = 0
    verified: bool = False
    prompt: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    passes: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def see(self, call: AttentionCall, sequences: Sequence[int], is_chunk: bool) -> None:
        """Keep what was asked for of a call's queries."""
        for q, sequence in zip(call.q, sequences, strict=True):
            if is_chunk:
                self.note_prompt(call.layer, sequence, q)
            else:
                self.note_pass(call.layer, sequence, q)

    def note_prompt(self, layer: int, row: int, q: Tensor) -> None:
        """Queries `q[H, n, D]` of a chunk of a prompt; the last `window` of all are kept."""
        if self.window:
            known = self.prompt.get((layer, row))
            both = q if known is None or q.shape[1] >= self.window else torch.cat([known, q], dim=1)
            self.prompt[layer, row] = both[:, -self.window :].clone()

    def note_pass(self, layer: int, sequence: int, q: Tensor) -> None:
        """Queries `q[H, N, D]` of a verification pass, one for each node."""
        if self.verified:
            self.passes[layer, sequence] = q

    def note_path(self, sequence: int, path: list[int]) -> None:
        """The nodes of the last verification pass that the text went through."""
        if self.verified and path:
            self.paths[sequence] = path

    def accepted(self, layer: int, sequence: int) -> Tensor | None:
        """Queries `[H, m, D]` of the accepted nodes of the last verification, if there was one."""
        q, path = self.passes.get((layer, sequence)), self.paths.get(sequence)
        return None if q is None or path is None else q[:, path]
