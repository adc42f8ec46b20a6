"""Drafter: the seam between those who propose and the target that verifies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.rotation import UNLIMITED, Rotation

if TYPE_CHECKING:
    from torch import device

    from specdec.cache.store import Level
    from specdec.decoding.cached_model import CachedModel
    from specdec.forward.follower import Follower
    from specdec.forward.forward_pass import View
    from specdec.model.target import Target
    from specdec.sampling.sequence import Row
    from specdec.sampling.tree import TokenTree
    from specdec.sampling.verify import Verdict


@dataclass(frozen=True)
class Wants:
    """What a drafter or view asks the verifying model to keep for it: see `QueryRecorder`.

    prompt_queries: the last so many queries of each prompt; probe_every: its queries at every so
        manieth position, or at more; 0: none. verified: those of verification.
    followers: are shown every query that reads all of the text.
    costs: what its passes cost on this machine, measured before the first round.
    on_spill: called as (level, layer, row, device) when a row's oldest tokens have moved to a level
        of slower memory, while they are still near: see `offload.TieredStore`.
    """

    prompt_queries: int = 0
    verified: bool = False
    costs: bool = False
    on_spill: tuple[Callable[[Level, int, int, device], None], ...] = ()
    probe_every: int = 0
    followers: tuple[Follower, ...] = ()

    @classmethod
    def of_view(cls, view: View) -> Wants:
        """What a view has to be shown."""
        needs = view.needs
        return cls(
            needs.prompt_queries,
            needs.verified or bool(needs.followers),
            on_spill=needs.on_spill,
            probe_every=needs.probe_every,
            followers=needs.followers,
        )

    def recorder(self) -> QueryRecorder | None:
        """Keeps the queries that are asked for, if any are."""
        if not self.prompt_queries and not self.verified and not self.probe_every:
            return None
        return QueryRecorder(self.prompt_queries, self.verified, self.probe_every, self.followers)

    @classmethod
    def all_of(cls, wants: Sequence[Wants]) -> Wants:
        """What satisfies everyone."""
        return cls(
            max((w.prompt_queries for w in wants), default=0),
            any(w.verified for w in wants),
            any(w.costs for w in wants),
            tuple(each for w in wants for each in w.on_spill),
            min((w.probe_every for w in wants if w.probe_every), default=0),
            tuple(dict.fromkeys(each for w in wants for each in w.followers)),
        )


def wants_of(someone: object) -> Wants:
    """The `wants` of a drafter; one that has none wants nothing."""
    wants: Wants = getattr(someone, "wants", Wants())
    return wants


@dataclass(frozen=True)
class Traits:
    """What a controller that may choose a drafter, or not, must know of it.

    cost_key: under which its measured costs are kept from call to call.
    max_depth: deepest draft worth asking for; `limits` of `propose` ask for less.
    widths: nodes per level that its attribute `width` may be set to before `propose`.
    instant: it runs no model, draws nothing and says `chances` in its trees, so it is asked in
        every round and judged by what it proposes; others are chosen before they draft.
    reads: tokens of context that its passes of the target's own weights read, where it drafts so.
    """

    cost_key: str
    max_depth: int = 8
    widths: tuple[int, ...] = (1,)
    instant: bool = False
    reads: int | None = None


@dataclass(frozen=True)
class Reach:
    """About which texts a drafter can be asked: see `Asking`.

    vocab_size: ids from here on mean nothing to it; None if it knows all. max_tokens: of a text.
    rotation: of the model that it runs, which no pass may mix.
    """

    vocab_size: int | None = None
    max_tokens: int = UNLIMITED
    rotation: Rotation = Rotation()

    @classmethod
    def of(cls, model: Target) -> Reach:
        """That of a drafter that runs `model`."""
        known = getattr(model.model.get_input_embeddings(), "num_embeddings", model.vocab_size)
        return cls(min(known, model.vocab_size), model.max_positions, model.rotation)

    def limit(self, row: Row, limit: int) -> int:
        """The depth of a draft behind a row, `limit` at most; its last tokens are never read."""
        room = self.max_tokens - len(row.tokens) + 1
        return self.rotation.limit(row.span, min(limit, room))


def reach_of(drafter: object) -> Reach:
    """The `reach` of a drafter; one that has none takes every text."""
    reach: Reach = getattr(drafter, "reach", Reach())
    return reach


def traits_of(drafter: Drafter) -> Traits:
    """The `traits` of a drafter; one that has none is kept under its name."""
    traits: Traits = getattr(drafter, "traits", Traits(drafter.name))
    return traits


class Foreteller(Protocol):
    """A drafter that needs nothing of the verifier, so that it can draft before that has read."""

    def foretell(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        """A chain for each row, as deep as its limit, in place of the first `propose`.

        Called at most once, and before `join`."""


class Drafter(Protocol):
    """Proposes a token tree for every active row of a batch, once a round.

    A drafter is made for one `generate` call. Rows join and leave; of those that are there it may
    keep state under `row.index`, which no other row has, or `row.slot`, which is another's later.
    It reads `row.tokens` anew in each round and holds nothing to be true beyond
    `row.tokens[:row.stable]`: later tokens may have been taken back since the last round, when the
    drafter works inside another one. It never changes a row. An attribute `wants` may ask the
    verifier to keep queries, `traits` tell a controller what it needs to know, and `reach` says
    which texts it can take. Others are not shown to it: `join` and `propose` get the rows that it
    can take.
    """

    name: str

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        """Meet rows that join the batch, each with its prompt, and who will verify: always the
        same.

        `verifier` holds the prompts' KV already; a drafter may read it, but never writes to it.
        """

    def leave(self, rows: Sequence[Row]) -> None:
        """Forget rows, some of those that have joined: their texts are at an end. `verifier` holds
        them yet, and what it has in their slots afterwards is of other texts."""

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        """One tree a row, with node 0 = `row.tokens[-1]`, no node deeper than the row's limit.

        A tree without drafts is a legal answer. A node that was drawn at random says so by its
        `Law`, and the tree then holds the law it was drawn from.
        """

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """What became of the trees. Called for the same rows after each `propose`.

        `trees` are those that were verified: they may hold other drafters' nodes and lack some of
        this one's. `row.tokens` already ends with the emitted tokens.
        """
