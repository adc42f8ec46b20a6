"""Stopper: where one row's text ends, asked after every single token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from specdec.decoding.stop_strings import StopStrings
from specdec.sampling.sequence import Row


class Stopper:
    """End tokens, stop strings, custom criteria and the length limit of one row.

    `is_final(token)` is called once for every emitted token, in order, also for those in the middle
    of an accepted block, so that the text ends exactly where plain decoding would end it. It keeps
    what it has seen of the text; `finish_reason` says why it ended: "stop", "length", "cancelled".

    min_tokens: a stop string that is complete within so many tokens is none.
    """

    def __init__(
        self,
        row: Row,
        eos_token_ids: Sequence[int],
        stop_strings: StopStrings,
        criteria: Sequence[Callable[..., Any]],
        device: torch.device,
        min_tokens: int = 0,
    ) -> None:
        self.row, self.device, self.stop_strings = row, device, stop_strings
        self.eos = frozenset(eos_token_ids)
        self.min_tokens = min_tokens
        self.criteria = list(criteria)
        self.emitted: list[int] = []  # of this round, not yet in row.tokens
        self._ends: list[int] = []  # length of the text after each of them
        self._shown = 0
        self.text = ""  # all of it, once it has ended
        self.finish_reason: str | None = None

    def begin_round(self) -> None:
        """The row has taken up the tokens of the last round."""
        self.emitted, self._ends = [], []

    def is_final(self, token: int) -> bool:
        """Take note of an emitted token and say whether the text ends with it."""
        self.emitted.append(token)
        self.stop_strings.push(token)
        if len(self.row.tokens) + len(self.emitted) - self.row.num_prompt_tokens <= self.min_tokens:
            self.stop_strings.pass_over()
        cut = self.stop_strings.found()
        if self._criteria_met() or token in self.eos or cut is not None:
            self.finish_reason = "stop"
        elif len(self.row.tokens) + len(self.emitted) >= self.row.max_tokens:
            self.finish_reason = "length"
        shown = self.stop_strings.shown
        if self.finish_reason is not None:
            shown.flush()
            self.text = shown.text if cut is None else shown.text[:cut]
        self._ends.append(shown.num_settled)
        return self.finish_reason is not None

    def cancel(self) -> None:
        """The text ends where it stands, if it has not ended yet."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
            self.stop_strings.shown.flush()
            self.text = self.stop_strings.shown.text

    def take_pieces(self) -> list[str]:
        """For each token of this round the text to show with it.

        What may yet change is held back, and so is what may become a stop string.
        """
        start, pieces = self._shown, []
        if self.finish_reason is None:
            text, safe = self.stop_strings.shown.text, self.stop_strings.num_safe()
        else:
            text, safe = self.text, len(self.text)
        for end in self._ends:
            end = max(start, min(end, safe))
            pieces.append(text[start:end])
            start = end
        self._shown = start
        return pieces

    def _criteria_met(self) -> bool:
        """Every criterion is asked about every token, as in transformers: some keep records."""
        if not self.criteria:
            return False
        ids = self.row.sampler.input_ids(self.row, self.emitted, self.device)
        return any([bool(torch.as_tensor(c(ids, None)).any()) for c in self.criteria])
