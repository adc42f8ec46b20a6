"""LongSpecBlock: one transformer block that drafts from the target's embeddings and last KV."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdec.drafts.longspec.rotary import Rotary
from specdec.kernels.dispatch import kind_for
from specdec.kernels.linear.decoder_block import Linear
from specdec.kernels.linear.packed_weight import PanelWeight, quantise
from specdec.kernels.linear.skinny_linear import skinny_linear


@dataclass(frozen=True)
class Sizes:
    """Shapes of a block; all but `mlp_size` and `window` are the target's own.

    kv_layer: the target's layer whose cached keys and values the block reads.
    window: tokens that self-attention sees, the token itself included.
    max_lag: how many tokens behind the target's KV can be, with a matrix for each.
    token_query: whether queries for the target's keys read the token's embedding besides h.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    mlp_size: int
    kv_layer: int
    window: int = 512
    max_lag: int = 4
    query_norm: bool = False
    token_query: bool = False
    norm_eps: float = 1e-5

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Norm(nn.RMSNorm):
    """RMSNorm that computes in the precision of its weight, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x.to(self.weight.dtype))
        return out


class LongSpecBlock(nn.Module):
    """h = Linear(x); h += SelfAttn(x); h += CrossAttn(h); h += SwiGLU(h) (LongSpec).

    Source: arXiv 2502.17421, 3.1. Embedding and LM head are the target's and are not part of the
    module. Unlike the paper's block it does not start from h = Emb(x): h begins as a linear reading
    of the token, the one before it, and the target's newest cached key and value, which has a
    closed-form solution to start from. Self-attention reads embeddings alone, so its keys and
    values depend on token and position only.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = s = sizes
        heads, kv = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
        state = kv + s.num_kv_heads * s.value_dim
        self.token_in = nn.Linear(s.hidden_size, s.hidden_size)
        self.before_in = nn.Linear(s.hidden_size, s.hidden_size, bias=False)
        self.state_in = nn.ModuleList(
            nn.Linear(state, s.hidden_size, bias=False) for _ in range(s.max_lag)
        )
        self.self_norm = Norm(s.hidden_size, s.norm_eps)
        self.self_q = nn.Linear(s.hidden_size, heads)
        self.self_k = nn.Linear(s.hidden_size, kv)
        self.self_v = nn.Linear(s.hidden_size, kv)
        self.self_o = nn.Linear(heads, s.hidden_size, bias=False)
        self.cross_norm = Norm(s.hidden_size, s.norm_eps)
        self.cross_q = nn.Linear(s.hidden_size, heads, bias=False)
        self.cross_token = nn.Linear(s.hidden_size, heads) if s.token_query else None
        self.cross_q_norm = Norm(s.head_dim, s.norm_eps) if s.query_norm else nn.Identity()
        self.cross_o = nn.Linear(s.num_heads * s.value_dim, s.hidden_size, bias=False)
        self.mlp_norm = Norm(s.hidden_size, s.norm_eps)
        self.mlp_gate = nn.Linear(s.hidden_size, s.mlp_size, bias=False)
        self.mlp_up = nn.Linear(s.hidden_size, s.mlp_size, bias=False)
        self.mlp_down = nn.Linear(s.mlp_size, s.hidden_size, bias=False)

    def start(self, embedded: Tensor, before: Tensor) -> Tensor:
        """What h begins as, of tokens `embedded[B, n, hidden]` and of those just before them."""
        h: Tensor = self.token_in(embedded) + self.before_in(before)
        return h

    def newest(self, state: Tensor, lag: int) -> Tensor:
        """What h begins with of the target's newest cached token, `lag` tokens back.

        state: `[B, n, S]` as `state` makes it.
        """
        h: Tensor = self.state_in[min(lag, self.sizes.max_lag) - 1](state)
        return h

    def state(self, k: Tensor, v: Tensor, rotary: Rotary, positions: Tensor) -> Tensor:
        """Cached `k, v[B, Hkv, n, D]` side by side, `[B, n, S]`, the keys turned back."""
        return torch.cat((self._joined(rotary.cross(k, -positions)), self._joined(v)), -1)

    def window_kv(
        self, embedded: Tensor, rotary: Rotary, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Self-attention's k, v `[B, Hkv, n, D]` of tokens `embedded[B, n, hidden]`."""
        x = self.self_norm(embedded)
        k = rotary.own(self._heads(self.self_k(x), self.sizes.num_kv_heads), positions)
        return k, self._heads(self.self_v(x), self.sizes.num_kv_heads)

    def self_query(self, embedded: Tensor, rotary: Rotary, positions: Tensor) -> Tensor:
        """Self-attention's queries `[B, H, n, D]`."""
        q = self._heads(self.self_q(self.self_norm(embedded)), self.sizes.num_heads)
        return rotary.own(q, positions)

    def cross_query(self, h: Tensor, embedded: Tensor, rotary: Rotary, positions: Tensor) -> Tensor:
        """Queries `[B, H, n, D]` of tokens `embedded` for the target's cached keys, turned as the
        target turns its."""
        q = self.cross_q(self.cross_norm(h))
        if self.cross_token is not None:
            q = q + self.cross_token(self.self_norm(embedded))
        q = self._heads(q, self.sizes.num_heads)
        return rotary.cross(self.cross_q_norm(q), positions)

    def self_output(self, attended: Tensor) -> Tensor:
        """What self-attention adds to h, from its `[B, H, n, D]`."""
        return self.self_o(self._joined(attended))

    def cross_output(self, attended: Tensor) -> Tensor:
        """What cross-attention adds to h, from its `[B, H, n, Dv]`."""
        return self.cross_o(self._joined(attended))

    def finish(self, h: Tensor) -> Tensor:
        """What the target's LM head is given: `[B, n, hidden]`."""
        out: Tensor = h + self.mlp_down(self.mlp_inner(h))
        return out

    def mlp_inner(self, h: Tensor) -> Tensor:
        """The MLP's `[B, n, mlp_size]`, before its output matrix."""
        x = self.mlp_norm(h)
        return F.silu(self.mlp_gate(x)) * self.mlp_up(x)

    def forward(
        self, embedded: Tensor, positions: Tensor, k: Tensor, v: Tensor, rotary: Rotary, lag: int
    ) -> Tensor:
        """Hidden states for texts `embedded[B, T, hidden]` with the target's `k, v[B, Hkv, T, D]`.

        Token i sees the target's KV of tokens 0 .. i - lag: what drafting finds `lag` tokens past
        the last verified one ("flash noisy training"). Positions are `int64[B, T]`.
        """
        state = self.state(k, v, rotary, positions).to(embedded.dtype)
        h = self.start(embedded, behind(embedded, 1)) + self.newest(behind(state, lag), lag)
        h = h + self.self_o(self.near(embedded, rotary, positions))
        h = h + self.cross_o(self.far(h, embedded, positions, k, v, rotary, lag))
        return self.finish(h)

    def near(self, embedded: Tensor, rotary: Rotary, positions: Tensor) -> Tensor:
        """Self-attention's heads side by side, `[B, T, H * D]`, for whole texts."""
        own_k, own_v = self.window_kv(embedded, rotary, positions)
        mask, length = None, embedded.shape[1]
        if length > self.sizes.window:
            index = torch.arange(length, device=embedded.device)
            ahead = index[:, None] - index[None, :]
            mask = (ahead >= 0) & (ahead < self.sizes.window)
        q = self.self_query(embedded, rotary, positions)
        return self.attended(q, own_k, own_v, mask)

    def far(
        self, h: Tensor, embedded: Tensor, positions: Tensor, k: Tensor, v: Tensor, rotary: Rotary,
        lag: int,
    ) -> Tensor:  # fmt: skip
        """Cross-attention's heads side by side, `[B, T, H * Dv]`, zero for the first `lag`."""
        q = self.cross_query(h, embedded, rotary, positions)[:, :, lag:]
        end = h.shape[1] - lag
        seen = self.attended(q, k[:, :, :end], v[:, :, :end], None)
        return F.pad(seen, (0, 0, lag, 0))

    def attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Heads side by side, `[B, n, H * Dv]`, of texts; causal where no mask is given."""
        group = self.sizes.num_heads // self.sizes.num_kv_heads
        k, v = (x.to(q.dtype).repeat_interleave(group, 1) for x in (k, v))
        return self._joined(
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        )

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    def pack(self) -> None:
        """Lay out the matrices for few-row passes on a CPU, in place, in 8 bits."""
        for module in self.modules():
            pack_linear(module)

    @property
    def is_packed(self) -> bool:
        """Whether `pack` has laid out its matrices."""
        return packed_weight(self.token_in) is not None

    @staticmethod
    def _joined(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


def pack_linear(module: nn.Module) -> None:
    """Have a linear layer multiply with a copy in 8 bits where the CPU's kernels can, in place.

    A draft reads its weights once a token and a rounding error costs acceptance only.
    """
    if type(module) is nn.Linear and kind_for(module.weight) == "numba":
        module.forward = partial(  # type: ignore[method-assign]
            skinny_linear, weight=quantise(module.weight, 8), bias=module.bias
        )


def packed_weight(module: nn.Linear) -> PanelWeight | None:
    """The copy in 8 bits that a linear layer multiplies with, if it does."""
    weight: PanelWeight | None = getattr(module.forward, "keywords", {}).get("weight")
    return weight


def packed(module: nn.Linear) -> Linear:
    """A packed linear layer as the ops of a decoder layer take it."""
    weight = packed_weight(module)
    assert weight is not None, "pack_linear comes first"
    return Linear(weight, None if module.bias is None else module.bias.detach())


def behind(x: Tensor, lag: int) -> Tensor:
    """`x[B, T, ...]` moved `lag` tokens to the right, with zeros in front."""
    return torch.cat((torch.zeros_like(x[:, :lag]), x[:, : x.shape[1] - lag]), 1)
