"""pooled: scores smoothed over their neighbours, so that what stands beside a peak is kept, too."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def pooled(score: Tensor, width: int, how: str = "mean") -> Tensor:
    """The mean or "max" of the `width` (odd) neighbours around each score along the last axis.

    At the ends there are fewer. Same shape as `score[..., S]`.
    """
    assert width % 2 == 1, width
    flat, pad = score.reshape(1, -1, score.shape[-1]), width // 2
    if how == "max":
        out = functional.max_pool1d(flat, width, stride=1, padding=pad)
    else:
        out = functional.avg_pool1d(flat, width, stride=1, padding=pad, count_include_pad=False)
    return out.reshape(score.shape)
