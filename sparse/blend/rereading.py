"""Rereading: some tokens of a fused text are read again, amid the keys and values of all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.forward.observer import SeenPass
from specdec.forward.plan import LayerPlan, Partial
from specdec.kernels.precision import wide_dtype
from specdec.model.target import Target
from specdec.sampling.tree import ancestor_words
from specdec.sparse.blend.fused_kv import FusedKV

CHUNK = 256  # tokens of a pass
BLOCK = 32  # of them, whose logits over all keys are held at once


def reread(target: Target, tokens: list[int], places: Tensor, kv: FusedKV) -> None:
    """Read the tokens at `places` (`int64[n]`, increasing) of a text again, through all layers of
    `target`, and write their keys and values to `kv`, in place.

    In every layer they attend to all that stands before them there: to the new keys and values of
    those that are read again, and to the old ones of others.
    """
    for part in places.split(CHUNK):
        ids = [tokens[place] for place in part.tolist()]
        view = Rereading(kv, part.to(target.device))
        where, count = view.places[None], len(ids)
        pass_ = ForwardPass(
            KVStore(target.num_layers, 1, count), view, [0], where,
            anc=ancestor_words([[-1] * count], count).to(target.device), staged_positions=where,
            rounds=[0], observers=[view], layers=target.num_layers,
        )  # fmt: skip
        target.read([ids], pass_)


class Rereading(FullView):
    """A pass whose staged tokens stand at `places[n]` of a fused text, each for itself.

    As an observer it writes their keys and values where they belong, as soon as a layer has them.
    """

    name, lossless = "rereading", False

    def __init__(self, kv: FusedKV, places: Tensor) -> None:
        self.kv, self.places = kv, places

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """What stands before each token, besides the token itself, which is staged."""
        return LayerPlan(extras=(_Before(self.kv, self.places),))

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        self.kv.put(call.layer, self.places, call.k[0], call.v[0])


@dataclass(frozen=True, eq=False)
class _Before:
    """Attention of tokens at `places[n]` over all fused keys at smaller places."""

    kv: FusedKV
    places: Tensor

    def attend(self, call: AttentionCall) -> Partial:
        places = self.places.to(call.q.device)
        parts = [
            self._of_block(call, call.q[0, :, at : at + BLOCK], places[at : at + BLOCK])
            for at in range(0, len(places), BLOCK)
        ]
        return torch.cat([o for o, _ in parts], 1)[None], torch.cat([x for _, x in parts], 1)[None]

    def _of_block(self, call: AttentionCall, q: Tensor, places: Tensor) -> Partial:
        """`o[H, n, Dv]` and `lse[H, n]` of the queries `q[H, n, D]`."""
        heads, count, _ = q.shape
        dtype = wide_dtype(q.dtype)
        lowest, end = int(places[0]), int(places[-1])
        first = 0 if call.window is None else max(0, lowest - call.window + 1)
        k, v = (x[call.layer][:, first:end].to(q.device, dtype) for x in (self.kv.k, self.kv.v))
        grouped = (q.to(dtype) * call.scale).reshape(k.shape[0], -1, q.shape[-1])  # [Hkv, G * n, D]
        logits = (grouped @ k.transpose(1, 2)).view(heads, count, end - first)
        if call.softcap is not None:
            logits = call.softcap * (logits / call.softcap).tanh()
        # what stands before all of them needs no mask, unless a window hides it
        since = first if call.window is not None else lowest
        ahead = places[:, None] - torch.arange(since, end, device=q.device)
        hidden = ahead <= 0
        if call.window is not None:
            hidden |= ahead >= call.window
        logits[..., since - first :].masked_fill_(hidden, -torch.inf)
        if end == first:
            nothing = logits.new_full((heads, count), -torch.inf)
            return logits.new_zeros(heads, count, v.shape[-1]), nothing
        weights = logits.softmax(-1)  # NaN where a query sees nothing
        top = logits.amax(-1)
        lse = (top - weights.amax(-1).log()).nan_to_num_(-torch.inf, neginf=-torch.inf)
        weights.nan_to_num_(0.0)
        o = weights.view(k.shape[0], -1, k.shape[1]) @ v
        return o.view(heads, count, -1), lse
