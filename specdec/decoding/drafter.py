"""Drafter: the seam between those who propose and the target that verifies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from specdec.forward.plan import Needs
from specdec.forward.rotation import UNLIMITED, Rotation

if TYPE_CHECKING:
    from specdec.decoding.cached_model import CachedModel
    from specdec.decoding.stats import Stats
    from specdec.forward.view_reads import ReadStats
    from specdec.model.target import Target
    from specdec.sampling.sequence import Row
    from specdec.sampling.tree import TokenTree
    from specdec.sampling.verify import Verdict


@dataclass(frozen=True)
class Traits:
    """What a controller that may choose a drafter, or not, must know of it.

    cost_key: under which its measured costs are kept from call to call.
    max_depth: deepest draft worth asking for; `limits` of `propose` ask for less.
    widths: nodes per level that `Drafter.width` may be set to.
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


class Drafter(Protocol):
    """Proposes a token tree for every active row of a batch, once a round.

    A drafter is made for one `generate` call. Rows join and leave; of those that are there it may
    keep state under `row.index`, which no other row has, or `row.slot`, which is another's later.
    It reads `row.tokens` anew in each round and holds nothing to be true beyond
    `row.tokens[:row.num_final]`: later tokens may have been taken back since the last round, when
    the drafter works inside another one. It never changes a row.

    A drafter derives from this class, which says what one does without that has nothing to say.
    needs: what the verifier is to keep or measure for it. traits: what a controller must know that
    may choose it; None for one that is only asked for by name. reach: which texts it can take.
    Others are not shown to it: `join` and `propose` get the rows that it can take. width: nodes of
    a level of its trees, which a controller sets to one of `traits.widths` before `propose`.
    is_cold: whether weights of its own are read at the first `join`, which takes its time.
    """

    name: str
    needs: Needs = Needs()
    traits: Traits | None = None
    reach: Reach = Reach()
    width: int = 1
    is_cold: bool = False

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

    def foretell(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree] | None:
        """A chain for each row, as deep as its limit, in place of the first `propose`, from a
        drafter that can draft before the verifier has read; None from others.

        Called at most once, and before `join`.
        """
        return None

    def inner_stats(self, row: Row) -> dict[str, Stats]:
        """What drafters that verify something themselves made of it for a row, by name."""
        return {}

    def reads(self, row: Row) -> dict[str, ReadStats]:
        """What sparse views read for a row, by name."""
        return {}

    def explain(self) -> list[str]:
        """What it has to say about its choices."""
        return []


def __getattr__(name: str) -> Any:
    if name == "Wants":
        warnings.warn(
            "specdec.decoding.drafter.Wants is specdec.forward.plan.Needs now; the old name works "
            "for one release",
            DeprecationWarning,
            stacklevel=2,
        )
        return Needs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
