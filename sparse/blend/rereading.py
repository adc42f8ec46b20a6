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
from specdec.model.target import Target
from specdec.sampling.tree import ancestor_words
from specdec.sparse.blend.fused_kv import FusedKV

CHUNK = 256  # tokens of a pass: their logits over all keys are held at once


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
        q, places = call.q[0], self.places.to(call.q.device)
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        end = int(places[-1])
        first = 0 if call.window is None else max(0, int(places[0]) - call.window + 1)
        k, v = (x[call.layer][:, first:end].to(q.device, wide) for x in (self.kv.k, self.kv.v))
        grouped = q.to(wide).reshape(k.shape[0], -1, q.shape[-1])  # [Hkv, G * n, D]
        logits = (grouped @ k.transpose(1, 2)).view(q.shape[0], q.shape[1], -1) * call.scale
        if call.softcap is not None:
            logits = call.softcap * (logits / call.softcap).tanh()
        ahead = places[:, None] - torch.arange(first, end, device=q.device)
        hidden = ahead <= 0
        if call.window is not None:
            hidden |= ahead >= call.window
        logits.masked_fill_(hidden, -torch.inf)
        lse = logits.logsumexp(-1)
        weights = (logits - lse[..., None]).exp_().nan_to_num_(0.0)  # of one that sees nothing
        o = weights.view(k.shape[0], -1, k.shape[1]) @ v
        return o.view(1, q.shape[0], q.shape[1], -1), lse[None]
