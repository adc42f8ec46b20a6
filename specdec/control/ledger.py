"""Ledger: what learning may cost, a share of the time that all calls have spent."""

from __future__ import annotations

from dataclasses import dataclass

PROBE_SHARE = 0.007  # of the time may be lost on probes
READ_SHARE = 0.01  # of the time may be spent on what drafters need first: code, weights, text
FIRST_CREDIT = 1.0  # plain steps that may be lost before any time has passed
MOST_CREDIT = 4.0  # plain steps that may be saved up: no short text pays for many before it


@dataclass
class Ledger:
    """Of one model on one machine, through all calls, so that a short text has no credit of its
    own to lose.

    spent: seconds of all rounds; here: of those in this process. credit: seconds that probes may
    still lose, beside `FIRST_CREDIT`.
    """

    spent: float = 0.0
    credit: float = 0.0
    here: float = 0.0

    def affords(self, seconds: float) -> bool:
        """Whether so much may be done first for a drafter of which nothing is known, by what this
        process has spent."""
        return seconds <= READ_SHARE * self.here

    def covers(self, loss: float, step: float) -> bool:
        """Whether a probe that may lose so many seconds is allowed; `step`: of plain decoding."""
        return loss <= min(self.credit + FIRST_CREDIT * step, MOST_CREDIT * step)

    def note(self, seconds: float, lost: float = 0.0) -> None:
        """Take up a round, in place, and what it has lost for being a probe."""
        self.spent += seconds
        self.here += seconds
        self.credit += PROBE_SHARE * seconds - lost
