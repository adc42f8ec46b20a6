"""frames: the image tokens of a text in pieces that belong together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from specdec.sampling.prompt import Prompt

LONGEST = 256  # tokens of a frame, where nothing says where one ends
PIECE = 196  # tokens of a frame of LLaVA-OneVision, ReKV's block


def frames(content: Prompt | None, length: int) -> Tensor:
    """`int64[length]`: the number of the frame of each token; -1 for text.

    A frame is a span; one whose positions in time change is cut there, and one that is long without
    them, as a video of LLaVA-OneVision's is, into pieces of PIECE tokens.
    """
    made = torch.full((length,), -1)
    for number, (start, end) in enumerate(_pieces(content)):
        made[start : min(end, length)] = number
    return made


def _pieces(content: Prompt | None) -> Iterator[tuple[int, int]]:
    if content is None:
        return
    times = content.positions
    for span in content.spans:
        cuts = []
        if times is not None and len(times) == 3:
            ahead = times[0, span.start + 1 : span.end] != times[0, span.start : span.end - 1]
            cuts = (ahead.nonzero()[:, 0] + span.start + 1).tolist()
        elif span.length > LONGEST:
            cuts = list(range(span.start + PIECE, span.end, PIECE))
        yield from zip([span.start, *cuts], [*cuts, span.end], strict=True)
