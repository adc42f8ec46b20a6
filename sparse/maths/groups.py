"""Groups: which tokens belong together, and which of them fill a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Groups:
    """U groups of S tokens for each head: group u of head h are the `sizes[h, u]` tokens from
    `members[h, starts[h, u]]` on.

    members: `int[H, S]`; starts, sizes: `int64[H, U]`. Tokens of no group are members that no group
    reaches.
    """

    members: Tensor
    starts: Tensor
    sizes: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Groups]) -> Groups:
        """One text of several, whose tokens are counted through."""
        if len(parts) == 1:
            return parts[0]
        members, starts, offset = [], [], 0
        for part in parts:
            members.append(part.members + offset)
            starts.append(part.starts + offset)
            offset += part.members.shape[1]
        sizes = torch.cat([part.sizes for part in parts], dim=1)
        return cls(torch.cat(members, dim=1), torch.cat(starts, dim=1), sizes)

    def at(self, places: Tensor) -> Tensor:
        """The groups that reach some places among the members, `int64[H, n]`. Starts ascend."""
        return torch.searchsorted(self.starts.contiguous(), places.contiguous(), right=True) - 1

    def best(self, score: Tensor, count: int, first: int = 0, last: int = 0) -> Tensor:
        """`count` tokens of each head, `int64[H, count]`, best first; -1 where there are no more.

        The `first` tokens come before all others, then the `last` ones. Behind them groups are
        taken whole by their `score[H, U]`, the last one cut behind its first tokens; one of score
        -inf is not taken.
        """
        heads, tokens = self.members.shape
        order = score.sort(dim=-1, descending=True, stable=True).indices
        size = self.sizes.masked_fill(score == -torch.inf, 0).gather(1, order)
        ends = size.cumsum(1)
        at = torch.arange(min(tokens, count + first + last), device=score.device)
        at = at.expand(heads, -1).contiguous()
        group = torch.searchsorted(ends, at, right=True)
        is_there = group < ends.shape[1]
        group = group.clamp_max(max(0, ends.shape[1] - 1))
        begin = self.starts.gather(1, order).gather(1, group)
        inside = at - (ends - size).gather(1, group)
        member = self.members.gather(1, torch.where(is_there, begin + inside, 0)).long()
        return filled(member.masked_fill(~is_there, -1), tokens, count, first, last)


def filled(chosen: Tensor, tokens: int, count: int, first: int, last: int) -> Tensor:
    """`int64[H, count]`: the `first` and the `last` of so many tokens, and those of `chosen[H, n]`
    that are neither, in order; -1 in `chosen` is none, and in what is left."""
    device = chosen.device
    forced = torch.cat(
        [torch.arange(first, device=device), torch.arange(max(first, tokens - last), tokens,
                                                         device=device)]
    )  # fmt: skip
    chosen = torch.where((chosen < first) | (chosen >= tokens - last), -1, chosen)
    chosen = torch.cat([forced.expand(len(chosen), -1), chosen], dim=1)
    at = (chosen >= 0).cumsum(1) - 1
    at = torch.where((chosen >= 0) & (at < count), at, count)
    out = chosen.new_full((len(chosen), count + 1), -1)
    return out.scatter_(1, at, chosen)[:, :count]
