"""class_centres: tokens that are left out, merged into the kept one that they resemble (EMS)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from specdec.sparse.maths.merging import scatter_mean

CHUNK = 1024  # tokens compared with all centres at a time


class Merged(NamedTuple):
    """k, v: `[Hkv, n, D]` of the centres with what went into them; size: `[Hkv, n]`, how many
    tokens that is, the centre included."""

    k: Tensor
    v: Tensor
    size: Tensor


def class_centres(
    k: Tensor, v: Tensor, weight: Tensor, centres: Tensor, threshold: float = 0.6
) -> Merged:
    """Each head's centres with the tokens merged that are like them.

    EMS (arXiv 2412.08521): the redundancy of tokens i, c is cos(k_i, k_c) * cos(v_i, v_c), with
    negative cosines taken as 0, so that two of them are not a likeness; a token goes into the
    centre of the greatest redundancy if that is above `threshold`, and into no class (the zero
    class) otherwise. Merged values are means weighted by attention; keys are means of directions,
    weighted alike, with the weighted mean of their lengths.

    k, v: `[Hkv, S, D]`. weight: `[Hkv, S]`, positive. centres: `int64[Hkv, n]`, tokens.
    """
    heads, tokens = weight.shape
    count = centres.shape[1]
    unit_k, unit_v = normalize(k, dim=-1), normalize(v, dim=-1)
    among = [x.gather(1, centres[..., None].expand(-1, -1, x.shape[-1])) for x in (unit_k, unit_v)]
    group = torch.empty(heads, tokens, dtype=torch.int64, device=k.device)
    for at in range(0, tokens, CHUNK):
        part = slice(at, at + CHUNK)
        like = (unit_k[:, part] @ among[0].mT).clamp_min(0)
        like *= (unit_v[:, part] @ among[1].mT).clamp_min(0)
        best = like.max(dim=-1)
        group[:, part] = torch.where(best.values > threshold, best.indices, count)
    own = torch.arange(count, device=k.device).expand(heads, -1)
    group.scatter_(1, centres, own)  # a centre is its own
    size = k.norm(dim=-1, keepdim=True)
    direction, _ = scatter_mean(unit_k, group, count + 1, weight)
    length, _ = scatter_mean(size, group, count + 1, weight)
    value, _ = scatter_mean(v, group, count + 1, weight)
    number = weight.new_zeros(heads, count + 1).scatter_add_(1, group, torch.ones_like(weight))
    return Merged(
        normalize(direction, dim=-1)[:, :-1] * length[:, :-1], value[:, :-1], number[:, :-1]
    )
