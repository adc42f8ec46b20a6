"""gather_pages: the chosen pages of a level's row, side by side; a copy that PyTorch does well."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_pages(x: Tensor, pages: Tensor, page_size: int) -> Tensor:
    """Tokens of `pages[Hkv, n]` (int64) out of `x[Hkv, capacity, D]`: `[Hkv, n * page_size, D]`.

    Each KV head has pages of its own, in the order given.
    """
    count = x.shape[1] // page_size
    heads = torch.arange(x.shape[0], device=x.device)[:, None]
    paged = x[:, : count * page_size].unflatten(1, (count, page_size))
    return paged[heads, pages].flatten(1, 2)
