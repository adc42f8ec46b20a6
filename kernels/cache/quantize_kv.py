"""quantize_kv: keys and values in 8, 4 or 2 bits, for passes that may be a little off (KIVI).

Keys have channels of their own size, so each channel is scaled over a group of tokens; values have
not, so each token is, over a group of channels (Liu et al., KIVI, arXiv 2402.02750).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, uint8

from specdec.kernels.cache import codes
from specdec.kernels.dispatch import dispatched
from specdec.kernels.selection.page_bounds import new_units


class QuantizedKV(NamedTuple):
    """A level's keys and values as codes: value = code * step + low.

    k, v: `uint8[R, Hkv, C, D * bits / 8]`, packed by `codes.pack`; C is a multiple of the group.
    k_scales: `[R, Hkv, C / group, 2, D]`, step and low of a channel over a group of tokens.
    v_scales: `[R, Hkv, C, 2, Dv / value group]`, those of a token over a group of channels.
    """

    k: Tensor
    k_scales: Tensor
    v: Tensor
    v_scales: Tensor

    @property
    def group(self) -> int:
        """Tokens that share the scale of a key's channel."""
        return self.k.shape[2] // self.k_scales.shape[2]

    @property
    def bits(self) -> int:
        return 8 * self.k.shape[3] // self.dim

    @property
    def dim(self) -> int:
        return self.k_scales.shape[4]

    @property
    def value_dim(self) -> int:
        return 8 * self.v.shape[3] // self.bits

    @property
    def value_group(self) -> int:
        """Channels that share the scale of a token's value."""
        return self.value_dim // self.v_scales.shape[4]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self)

    @classmethod
    def empty(cls, k: Tensor, v: Tensor, bits: int, group: int) -> QuantizedKV:
        """Room for the keys and values of a level, `k[R, Hkv, C, D]` and `v[R, Hkv, C, Dv]`.

        Values get groups of at most `group` channels, such that half a head is a number of groups.
        """
        rows, kv_heads, capacity, dim = k.shape
        groups, half = -(-capacity // group), v.shape[3] // 2
        value_group = max(n for n in range(1, min(group, half) + 1) if half % n == 0)
        shape = (rows, kv_heads, groups * group)
        return cls(
            k.new_empty(*shape, dim * bits // 8, dtype=uint8),
            k.new_empty(rows, kv_heads, groups, 2, dim),
            v.new_empty(*shape, v.shape[3] * bits // 8, dtype=uint8),
            v.new_empty(*shape, 2, v.shape[3] // value_group),
        )


@dispatched
def quantize_kv(
    k: Tensor, v: Tensor, into: QuantizedKV, since: Tensor, length: Tensor, *, groups: int
) -> None:
    """Write, in place, the groups of tokens that became full since `since` tokens were there.

    k, v: `[R, Hkv, C, D]`; since, length: `int32[R]`. At most `groups` groups of a row are written:
    all of them to begin with, else as many as one pass can fill.
    """
    size = into.group
    for row, (a, b) in enumerate(new_units(since, length, size, groups)):
        if b <= a:
            continue
        tokens = slice(a * size, b * size)
        keys = k[row, :, tokens].unflatten(1, (b - a, size))
        coded, step, low = codes.encode(keys, into.bits, dim=2)
        into.k[row, :, tokens] = codes.pack(coded, into.bits).flatten(1, 2)
        into.k_scales[row, :, a:b, 0], into.k_scales[row, :, a:b, 1] = step[:, :, 0], low[:, :, 0]
        values = v[row, :, tokens].unflatten(-1, (-1, into.value_group))
        coded, step, low = codes.encode(values, into.bits, dim=-1)
        into.v[row, :, tokens] = codes.pack(coded.flatten(-2), into.bits)
        into.v_scales[row, :, tokens, 0] = step[..., 0]
        into.v_scales[row, :, tokens, 1] = low[..., 0]


def dequantize(kv: QuantizedKV, row: int, end: int) -> tuple[Tensor, Tensor]:
    """Keys and values `[Hkv, end, D]` of a row's first `end` tokens, in the type of the scales."""
    groups = -(-end // kv.group)
    step, low = kv.k_scales[row, :, :groups].repeat_interleave(kv.group, dim=1)[:, :end].unbind(2)
    keys = codes.unpack(kv.k[row, :, :end], kv.bits).to(step) * step + low
    step, low = kv.v_scales[row, :, :end].repeat_interleave(kv.value_group, dim=-1).unbind(2)
    values = codes.unpack(kv.v[row, :, :end], kv.bits).to(step) * step + low
    return keys, values
