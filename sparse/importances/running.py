"""Running: importance by what a step scorer has gathered since the text began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall
from specdec.forward.follower import Accepted, Follower, chunk_of
from specdec.forward.observer import SeenPass
from specdec.forward.plan import Needs
from specdec.sparse.importances.base import Observed, StepScorer, grown
from specdec.sparse.importances.ledger import Ledger
from specdec.sparse.maths.window_scores import masked_logits
from specdec.sparse.text import Text, held, lengths

AT_ONCE = 64  # queries of a chunk: their logits over a text should stay near the processor


@dataclass(frozen=True)
class Running:
    """Feeds `step` with every query that the text goes through, and asks it.

    Verification shows it the queries of accepted tokens; on a CPU their keys are read once more for
    it. sees_prompt: it is shown those of the prompt, too, which costs about as much as reading the
    prompt's attention a second time.
    """

    step: StepScorer
    sees_prompt: bool = True
    page_size: int = 1

    @property
    def needs(self) -> Needs:
        return Needs(verified=True, followers=(self,))

    def scores(self, text: Text) -> Tensor | None:
        """What the statistics say of each token; one that nobody has looked at yet has none."""
        known = Ledger.of(text.store, self.step).accounts[text.sequence].layers.get(text.layer)
        if known is None:
            return None
        every = tuple(grown(x, text.length)[:, : text.length] for x in known)
        return self.step.scores(every, text.length).to(text.device)

    def chunk(self, call: AttentionCall, pass_: SeenPass) -> None:
        """See `Follower`."""
        Together((self,)).chunk(call, pass_)

    def accepted(self, store: KVStore, sequence: int, layers: Mapping[int, Accepted]) -> None:
        """See `Follower`."""
        Together((self,)).accepted(store, sequence, layers)


@dataclass(frozen=True)
class Together:
    """Several of them, fed with one look at the attention: a `Follower`."""

    members: tuple[Running, ...]

    @classmethod
    def of(cls, followers: Sequence[Follower]) -> tuple[Follower, ...]:
        """The same followers, those that share a look made one."""
        members = tuple(x for x in followers if isinstance(x, Running))
        others = tuple(x for x in followers if not isinstance(x, Running))
        return (*others, cls(members)) if members else others

    def chunk(self, call: AttentionCall, pass_: SeenPass) -> None:
        """See `Follower`."""
        store = pass_.store
        for b, sequence in enumerate(pass_.sequences):
            start, count = chunk_of(pass_, b)
            for member in self.members:
                Ledger.of(store, member.step).accounts[sequence].prompt = start + count
            looking = tuple(member for member in self.members if member.sees_prompt)
            if looking:
                before = lengths(store, sequence)
                k = call.k[b, :, :count]
                if start:
                    k = torch.cat([held(store, sequence, call.layer, before, k.device)[0], k], 1)
                for first in range(0, count, AT_ONCE):
                    q = call.q[b, :, first : min(first + AT_ONCE, count)]
                    seen = Accepted(q, call.scale, call.softcap)
                    _update(looking, store, sequence, call.layer, seen, k, start + first)

    def accepted(self, store: KVStore, sequence: int, layers: Mapping[int, Accepted]) -> None:
        """See `Follower`."""
        counts = lengths(store, sequence)
        for layer, seen in layers.items():
            k, _ = held(store, sequence, layer, counts, seen.q.device)
            first = sum(counts) - seen.q.shape[1]
            _update(self.members, store, sequence, layer, seen, k, first)


def _update(
    members: Sequence[Running],
    store: KVStore,
    sequence: int,
    layer: int,
    seen: Accepted,
    k: Tensor,
    first: int,
) -> None:
    """Take up queries from position `first` on; those of the text up to the last one count."""
    end = first + seen.q.shape[1]
    at = torch.arange(first, end, device=k.device)
    q = seen.q.unflatten(0, (k.shape[0], -1))
    logits = masked_logits(q, k[:, :end], seen.scale, at, seen.softcap)
    observed = None
    for member in members:
        account = Ledger.of(store, member.step).accounts[sequence]
        known = account.layers.get(layer)
        if known is None:
            known = member.step.begin(k.shape[0], logits)
        if observed is None or observed.prompt != account.prompt:
            observed = Observed(logits, first, account.prompt, layer)
        account.layers[layer] = member.step.update(known, observed)
