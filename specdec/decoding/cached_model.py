"""CachedModel: a model with a KV store that follows the rows' token lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from specdec.cache.saved_text import SavedTexts
from specdec.cache.slots import Slots
from specdec.cache.store import KVStore
from specdec.control.calibration import costs_of
from specdec.control.costs import PassCosts
from specdec.decoding.pass_runner import PassRunner
from specdec.decoding.prefill import LONG, SLACK, Prefill, Spill
from specdec.decoding.text_follower import TextFollower
from specdec.forward.forward_pass import View
from specdec.forward.observer import Observer
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.view_reads import ReadStats
from specdec.forward.view_state import ViewState
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree


class CachedModel:
    """Runs trees of draft tokens for rows, and keeps their KV as far as it proves true.

    It is a `Prefill`, which fills its store, a `TextFollower`, which keeps that in line with the
    text, and a `PassRunner` over both. So drafters can share rows, take over from each other and
    nest. Rows come and go, `join` and `leave`, each with a slot of the store; the first ones say
    how that is laid out.

    slots: how many rows there may be at a time; None: as many as the first ones need.
    base: another CachedModel of the same model, whose committed KV this one reads in place of its
    own; what it writes itself goes to a level of its own and is dropped when the base moves on.
    recorder: keeps queries of prompts and of this model's passes for those who ask for them.
    watch: sees all calls of this model's passes over nodes.
    saved, on_spill: see `Prefill`.
    ids: its logits are of all tokens, see `TreeModel`.
    sees_content: whether it is given what prompts hold besides token ids (`Row.content`), as it
        must be to verify. A draft model of another kind reads the ids alone, at their places.
    """

    ids: Tensor | None = None

    @torch.inference_mode()
    def __init__(
        self,
        target: Target,
        view: View,
        rows: Sequence[Row],
        *,
        base: CachedModel | None = None,
        recorder: QueryRecorder | None = None,
        watch: Sequence[Observer] = (),
        saved: SavedTexts | None = None,
        on_spill: Sequence[Spill] = (),
        sees_content: bool = True,
        slots: Slots | None = None,
    ) -> None:
        self.slots: Slots = Slots(1 + max(row.slot for row in rows)) if slots is None else slots
        self.target, self.view, self.base = target, view, base
        if base is None:
            target.begin()
        self.recorder: QueryRecorder | None = recorder if base is None else base.recorder
        self.state = ViewState(queries=self.recorder)
        own = recorder if base is None else None
        observers = () if own is None else (own,)
        self._prefill = Prefill(target, view, observers, saved, on_spill, sees_content)
        self.store: KVStore = (
            self._prefill.store(rows, self.slots) if base is None else base.store.overlay(SLACK)
        )
        count = self.store.sequences
        below = None if base is None else base.text
        rotation = target.rotation
        self.text: TextFollower = TextFollower(self.store, count, rotation, own, below)
        self.state.held = self.text.held
        self._begin(rows)
        seen = own if own is not None and own.verified else None
        self._passes = PassRunner(target, view, self.text, self.state, seen, watch, sees_content)

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Take up more rows, whose slots are free, beside those that are there, and read them.

        Raises OutOfMemory for a text that a slot has no room for; none has joined then.
        """
        if self.base is None:
            held = {slot: one for slot, one in enumerate(self.text.held) if one.tokens}
            self._prefill.add(self.store, rows, held)
        self._begin(rows)

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Forget rows, in place; their slots are free from now on."""
        for row in rows:
            self.store.release(row.slot)
            self.text.leave(row)
            self.state.forget(row.slot)

    def _begin(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if self.base is not None:
                self.store.claim([row.slot])
            self.text.join(row)

    @cached_property
    def costs(self) -> PassCosts:
        """What passes over committed text take here; those of a sparse view are not kept."""
        return costs_of(self.target, self.store.places) if self.view.lossless else PassCosts()

    @property
    def holder(self) -> CachedModel:
        """The model below all others, whose KV the target itself has written."""
        return self if self.base is None else self.base.holder

    @torch.inference_mode()
    def forward(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], best: bool = False
    ) -> list[Tensor]:
        """Logits `[len(tree), V]` after every node of each row's tree, in one pass.

        best: nothing but their argmax is wanted: where the target can do without logits, the result
        is `int64[len(tree)]` instead.
        """
        tokens, parents, starts = [], [], []
        for row, tree in zip(rows, trees, strict=True):
            assert tree.tokens[0] == row.tokens[-1]
            chain = self._unread(row)[:-1]  # a path down to the root of the tree
            start = len(chain)
            starts.append(start)
            tokens.append([*chain, *tree.tokens])
            # the root's parent -1 becomes the end of the chain, or none
            parents.append([*range(-1, start - 1), *(parent + start for parent in tree.parents)])
        logits = self._passes.run(rows, tokens, parents, best)
        return [
            rows_logits[start : start + len(tree)]
            for rows_logits, start, tree in zip(logits, starts, trees, strict=True)
        ]

    def root_slot(self, row: Row) -> int:
        """The slot of the last tree's root, from which `grow` goes on."""
        return self.text.root_slot(row)

    @torch.inference_mode()
    def grow(
        self, rows: Sequence[Row], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> tuple[int, Tensor]:
        """Stage more nodes below those already staged in this round: `parents` are slots.

        Returns the first new slot (new nodes stand there in order) and the logits `[B, n, V]`,
        where rows with fewer nodes than n are padded.
        """
        held = [self.text.held[row.slot] for row in rows]
        first = max(len(one.slots) for one in held)
        for one in held:
            one.pad(first)
        return first, self._passes.run(rows, tokens, parents)

    def sync_to(self, row: Row, upto: int) -> None:
        """Bring the store in line with the row's first `upto` tokens, as far as it read them."""
        self.text.sync_to(row, upto)

    def reads(self, sequence: int) -> dict[str, ReadStats]:
        """What a sparse view has read for the row in a slot, by its name; the full one counts
        nothing."""
        known = self.state.of(sequence).reads
        return {} if known is None else {self.view.name: known}

    def _unread(self, row: Row) -> list[int]:
        """The row's last tokens, which its store does not hold; all but one if they are many, or
        of a prompt that holds more than ids."""
        pending = self.text.sync(row)
        held = self.text.held[row.slot]
        is_rich = row.content is not None and len(held.tokens) < row.num_prompt_tokens - 1
        if len(pending) > LONG or is_rich:
            self._prefill.go_on(self.store, row, pending[:-1])
            held.hold(row.keys(len(held.tokens), len(row.tokens) - 1), row.num_final)
            pending = pending[-1:]
        return pending
