"""ReadStats: how much of the committed text the passes of a sparse view read."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple


class LayerRead(NamedTuple):
    """What one layer of a pass reads: tokens of the committed text, bytes, and the bytes that it
    would read if it left nothing out. is_part: whether it belongs to those that may."""

    tokens: float
    bytes: int
    full_bytes: int
    is_part: bool = True


class PassRead(NamedTuple):
    """What all layers of a pass read; `tokens` as a layer that leaves something out has them."""

    context: int
    tokens: float
    bytes: int
    full_bytes: int
    chosen_bytes: int


@dataclass
class ReadStats:
    """What passes of a view that saves reads do read of the committed text, pass by pass.

    tokens: read by a layer that leaves something out, on average over those, or all if none does;
    context: what there was to read. bytes, full_bytes: of keys and values in all layers, as they
    were read and as the model has them. chosen_bytes: of indices, keys and values that were read to
    choose anew; a static pass does not count those. Layers with a sliding window are left out,
    which every view reads alike. A pass reads all when the text is not longer than the view's
    budget.
    """

    _done: list[PassRead] = field(default_factory=list)
    _context: int | None = None  # of the pass that began last
    _layers: dict[int, LayerRead] = field(default_factory=dict)
    _chosen: dict[int, int] = field(default_factory=dict, compare=False)

    def begin(self, context: int) -> None:
        """A new pass, behind `context` tokens of text."""
        if self._context is not None:
            self._done.append(self._now(self._context))
        self._context, self._layers, self._chosen = context, {}, {}

    def note(self, layer: int, read: LayerRead) -> None:
        """What a layer of the pass that began last reads; said again, the last word counts."""
        self._layers[layer] = read

    def chose(self, layer: int, size: int) -> None:
        """A layer of the pass that began last reads so many bytes to choose, likewise."""
        self._chosen[layer] = size

    @property
    def each(self) -> list[PassRead]:
        """The passes so far, in order."""
        open_ = [] if self._context is None else [self._now(self._context)]
        return [*self._done, *open_]

    @property
    def passes(self) -> int:
        return len(self.each)

    @property
    def tokens(self) -> list[float]:
        return [one.tokens for one in self.each]

    @property
    def context(self) -> list[int]:
        return [one.context for one in self.each]

    @property
    def bytes(self) -> list[int]:
        return [one.bytes for one in self.each]

    @property
    def full_bytes(self) -> list[int]:
        return [one.full_bytes for one in self.each]

    @property
    def chosen_bytes(self) -> list[int]:
        return [one.chosen_bytes for one in self.each]

    @property
    def full_passes(self) -> int:
        """Passes that read everything."""
        return sum(one.bytes >= one.full_bytes for one in self.each)

    def to_dict(self) -> dict[str, float]:
        """Counts, means per pass, and the most that a pass read."""
        passes = self.passes

        def mean(figures: list[float] | list[int]) -> float:
            return sum(figures) / max(1, passes)

        return {
            "passes": passes,
            "full_passes": self.full_passes,
            "tokens_per_pass": mean(self.tokens),
            "context_per_pass": mean(self.context),
            "bytes_per_pass": mean(self.bytes),
            "full_bytes_per_pass": mean(self.full_bytes),
            "chosen_bytes_per_pass": mean(self.chosen_bytes),
            "most_tokens": max(self.tokens, default=0),
        }

    def _now(self, context: int) -> PassRead:
        layers = self._layers.values()
        parts = [one.tokens for one in layers if one.is_part]
        return PassRead(
            context,
            fmean(parts) if parts else context,
            sum(one.bytes for one in layers),
            sum(one.full_bytes for one in layers),
            sum(self._chosen.values()),
        )
