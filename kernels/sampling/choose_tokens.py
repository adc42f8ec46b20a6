"""choose_tokens: the highest score of each row, under the noise of its place if there is any."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.precision import wide
from specdec.kernels.sampling.philox import philox


@dispatched
def choose_tokens(
    scores: Tensor, seeds: Tensor | None = None, counters: Tensor | None = None
) -> Tensor:
    """argmax of `scores[M, V]`, plus Gumbel noise where there are seeds: `int64[M]`.

    seeds: `int64[M]`; counters: `int64[M, 3]`, the upper three words of the counter, as `Noise`
    sets them: so the choice is that of the host for the same place. Scores are taken as float32 (or
    float64) and meet their noise in float64. The lowest of equal tokens is chosen.
    """
    wider = wide(scores)
    if seeds is not None:
        assert counters is not None
        wider = wider.double() + gumbel(seeds, counters, scores.shape[-1])
    return wider.argmax(-1)


def gumbel(seeds: Tensor, counters: Tensor, n: int) -> Tensor:
    """Gumbel noise `float64[M, n]` of keys `int64[M]` and counters `int64[M, 3]`."""
    blocks = torch.arange(-(-n // 4), device=counters.device).expand(len(counters), -1)
    b, c, d = (word[:, None].expand_as(blocks) for word in counters.unbind(-1))
    words = philox(seeds[:, None].expand_as(blocks), (b, c, d), blocks).view(len(counters), -1)
    uniform = (words[:, :n].to(torch.float64) + 0.5) * 2.0**-32
    return -torch.log(-torch.log(uniform))
