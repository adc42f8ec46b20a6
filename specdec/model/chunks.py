"""Chunks: text cut into the passes that read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specdec.forward.rotation import Rotation
from specdec.sampling.span import Span

PREFILL_CHUNK = 1024  # tokens; long enough for matrix products to run at full speed


@dataclass(frozen=True)
class Chunk:
    """Tokens of one causal pass at their positions, of which the first `kept` are the text's."""

    tokens: list[int]
    positions: list[int]
    kept: int


def chunks(
    tokens: Sequence[int], start: int, span: int, rotation: Rotation, spans: Sequence[Span] = ()
) -> Iterator[Chunk]:
    """`tokens` from position `start` on, to be rotated as a text of `span` tokens is.

    spans: of the text; none of those whose tokens see each other is cut.

    Where a chunk alone would be rotated differently, one more token at the text's end, which nobody
    sees and nobody keeps, has all of them rotated by the text's length.
    """
    whole = rotation.regime(span)
    size = PREFILL_CHUNK if rotation.is_fixed else PREFILL_CHUNK - 1
    end, stop = start, start + len(tokens)
    while end < stop:
        first = end
        end = _uncut(min(first + size, stop), spans)
        part = list(tokens[first - start : end - start])
        positions = list(range(first, end))
        kept = len(part)
        if rotation.regime(end) != whole:
            part.append(part[-1])
            positions.append(span - 1)
        yield Chunk(part, positions, kept)


def _uncut(end: int, spans: Sequence[Span]) -> int:
    """The last place up to `end` where no span that is read as a whole is cut."""
    return min([end, *(x.start for x in spans if x.bidirectional and x.start < end < x.end)])
