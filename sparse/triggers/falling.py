"""Falling: anew when the drafts of what was selected are rejected more and more."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.sparse.triggers.base import Moment


@dataclass(frozen=True)
class Falling:
    """Due when the drafter says that acceptance is falling: see `drafts.self_draft`."""

    looks = False

    def is_due(self, moment: Moment) -> bool:
        return moment.age > 0 and (moment.is_whole or moment.is_falling)
