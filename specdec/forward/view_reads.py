"""ReadStats: how much of the committed text the passes of a sparse view read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReadStats:
    """What a layer of a view that saves reads does read of the committed text, pass by pass.

    tokens: read by a layer that leaves something out, or all if none does; context: what there was
    to read. bytes, full_bytes: of their keys and values, as they were read and as the model has
    them. A pass reads all when the text is not longer than the view's budget.
    """

    tokens: list[int] = field(default_factory=list)
    context: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    full_bytes: list[int] = field(default_factory=list)

    def begin(self, context: int, size: int) -> None:
        """A new pass, which reads all of `context` tokens of `size` bytes unless `note` follows."""
        for figures, figure in ((self.tokens, context), (self.bytes, context * size)):
            figures.append(figure)
        self.context.append(context)
        self.full_bytes.append(context * size)

    def note(self, tokens: int, size: int) -> None:
        """What the pass that began last reads, in tokens and bytes."""
        self.tokens[-1], self.bytes[-1] = tokens, size

    @property
    def passes(self) -> int:
        return len(self.tokens)

    @property
    def full_passes(self) -> int:
        """Passes that read everything."""
        return sum(read >= there for read, there in zip(self.bytes, self.full_bytes, strict=True))

    def to_dict(self) -> dict[str, float]:
        """Counts, means per pass, and the most that a pass read."""
        passes = max(1, self.passes)
        return {
            "passes": self.passes,
            "full_passes": self.full_passes,
            "tokens_per_pass": sum(self.tokens) / passes,
            "context_per_pass": sum(self.context) / passes,
            "bytes_per_pass": sum(self.bytes) / passes,
            "full_bytes_per_pass": sum(self.full_bytes) / passes,
            "most_tokens": max(self.tokens, default=0),
        }
