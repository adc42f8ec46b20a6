"""Stopper: where one row's text ends, asked after every single token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from specdec.decoding.detokenizer import Detokenizer
from specdec.sampling.sequence import Row


class Stopper:
    """End tokens, stop strings, custom criteria and the length limit of one row.

    `is_final(token)` is called once for every emitted token, in order, also for those in the middle
    of an accepted block, so that the text ends exactly where plain decoding would end it. It keeps
    what it has seen of the text; `finish_reason` says why it ended: "stop" or "length".
    """

    def __init__(
        self,
        row: Row,
        eos_token_ids: Sequence[int],
        stop_strings: Sequence[str],
        criteria: Sequence[Callable[..., Any]],
        detokenizer: Detokenizer,
        device: torch.device,
    ) -> None:
        self.row, self.device, self.detokenizer = row, device, detokenizer
        self.eos = frozenset(eos_token_ids)
        self.stop_strings = list(stop_strings)
        self.criteria = list(criteria)
        self.emitted: list[int] = []  # of this round, not yet in row.tokens
        self._ends: list[int] = []  # length of the text after each of them
        self._shown = 0
        self.finish_reason: str | None = None

    def begin_round(self) -> None:
        """The row has taken up the tokens of the last round."""
        self.emitted, self._ends = [], []

    def is_final(self, token: int) -> bool:
        """Take note of an emitted token and say whether the text ends with it."""
        self.emitted.append(token)
        self.detokenizer.push(token)
        if (
            token in self.eos
            or self.detokenizer.cut_before(self.stop_strings)
            or self._criteria_met()
        ):
            self.finish_reason = "stop"
        elif len(self.row.tokens) + len(self.emitted) >= self.row.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            self.detokenizer.flush()
        self._ends.append(len(self.detokenizer.text))
        return self.finish_reason is not None

    def take_pieces(self) -> list[str]:
        """For each token of this round the text to show with it.

        The beginning of what may become a stop string is held back until that is settled.
        """
        text, start, pieces = self.detokenizer.text, self._shown, []
        safe = len(text)
        if self.finish_reason is None:
            safe -= self.detokenizer.held_back(self.stop_strings)
        for end in self._ends:
            end = max(start, min(end, safe))
            pieces.append(text[start:end])
            start = end
        self._shown = start
        return pieces

    def _criteria_met(self) -> bool:
        if not self.criteria:
            return False
        ids = self.row.sampler.input_ids(self.row, self.emitted, self.device)
        return any(bool(torch.as_tensor(c(ids, None)).any()) for c in self.criteria)
