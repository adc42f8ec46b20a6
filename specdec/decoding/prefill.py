"""Prefill: prompts laid out in a store and read, and long stretches of text later on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from specdec.cache.ragged import Ragged, Room, cut
from specdec.cache.slots import Slots
from specdec.cache.store import KVStore, Level
from specdec.errors import OutOfMemory
from specdec.forward.forward_pass import View
from specdec.forward.observer import Observer
from specdec.model.target import Target
from specdec.offload.tiered_store import TieredStore
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES

LONG = 64  # pending tokens from which a causal prefill is better than a tree pass
# Staged slots beyond the text: a tree whose passes are padded, at most to twice their width, and
# what was pending before it.
SLACK = 2 * (MAX_NODES + LONG)

Spill = Callable[[Level, int, int, torch.device], None]


class SavedText(Protocol):
    """What prompts begin with and need not be read again, such as a `SavedPrompt`."""

    tokens: list[int]

    def common(self, tokens: Sequence[int]) -> int:
        """How many of the saved tokens `tokens` starts with, as `Prompt.keys` gives them."""

    def load(self, target: Target, store: KVStore, sequence: int, count: int) -> None:
        """Commit the first `count` tokens' keys and values to an empty row of a store."""


class Prefill:
    """Makes stores for rows of a batch and reads text into them.

    observers: see the calls of prompts. saved: the start of every prompt, which need not be read
    again. on_spill: see `Needs`. sees_content: see `CachedModel`.
    """

    def __init__(
        self,
        target: Target,
        view: View,
        observers: Sequence[Observer] = (),
        saved: SavedText | None = None,
        on_spill: Sequence[Spill] = (),
        sees_content: bool = True,
    ) -> None:
        self.target, self.view = target, view
        self.observers, self.saved, self.on_spill = observers, saved, on_spill
        self.sees_content = sees_content

    def store(self, rows: Sequence[Row], slots: Slots) -> KVStore:
        """A store with every prompt but its last token; rows of one prompt share its KV."""
        # What rows share cannot be read anew for one of them.
        reread = self.target.rotation.must_reread
        apart = any(reread(row.span, row.max_tokens + row.behind) for row in rows)
        prompts = {row.slot if apart else row.prompt_index: row for row in reversed(rows)}
        samples = len(rows) // len(prompts)
        count = slots.count // samples
        places = {row.slot // samples: row for row in prompts.values()}  # may lack some of them
        ragged = self._ragged(places, count, samples, apart, slots.tokens)
        if ragged.long:
            store = self.target.new_store(len(ragged.long) + 1, ragged.prompts)
            for place, number in enumerate(ragged.long):
                self._read(store, place, places.pop(number))
            store.stack(ragged.row_map(count), ragged.capacity)
        else:
            store = self.target.new_store(count, ragged.capacity)
        if isinstance(store, TieredStore):
            store.on_spill = self.on_spill
        for place, row in sorted(places.items()):
            self._read(store, place, row)
        if samples > 1:
            new = max(row.max_tokens - row.num_prompt_tokens for row in rows)
            store.fork(samples, max(new, slots.tokens) + SLACK)
        store.claim([row.slot for row in rows])
        return store

    def add(self, store: KVStore, rows: Sequence[Row]) -> None:
        """Read more prompts, each into a slot that is handed out to it, all of them or none."""
        room = store.room
        for row in rows:
            if row.max_tokens + SLACK > room:
                raise OutOfMemory(
                    f"row {row.index} may grow to {row.max_tokens} tokens, and a slot of this KV "
                    f"store has room for {max(0, room - SLACK)}: give it fewer, or a larger slot"
                )
        taken: list[int] = []
        try:
            for row in rows:
                taken.append(store.acquire(row.slot))
                self._read(store, row.slot, row)
        except BaseException:
            for slot in taken:
                store.release(slot)
            raise

    def go_on(self, store: KVStore, row: Row, tokens: Sequence[int]) -> None:
        """Read tokens of a row behind those that its store holds, all of them or none."""
        held = store.length(row.slot)
        try:
            self._run(store, row.slot, row, tokens)
        except BaseException:  # some of it may have been committed
            store.crop(row.slot, held)
            raise

    def _ragged(
        self, places: dict[int, Row], count: int, samples: int, apart: bool, least: int
    ) -> Ragged:
        """How the KV of prompts is laid out: by a level of equal rows unless that is a waste.

        Equal rows it stays where one of them may be read anew, which a shared level cannot; where a
        view chooses among a level's keys, whose text must not depend on who is beside it; and where
        KV goes to tiers.
        """
        rooms = [Room(0, least + SLACK if least else 1)] * count
        for place, row in places.items():
            prompt = row.num_prompt_tokens
            whole = prompt if samples > 1 else max(row.max_tokens, least) + SLACK
            rooms[place] = Room(prompt, whole)
        found = cut(rooms)
        if apart or not self.view.lossless or not self.target.has_room(found.slots):
            whole = max(room.whole for room in rooms)
            return Ragged((), 0, whole, count * whole)
        return found

    def _read(self, store: KVStore, place: int, row: Row) -> None:
        """Have a row's prompt but its last token in an empty row of a store."""
        text, known = row.tokens[:-1], 0
        if self.saved is not None and self._turns_alike(len(self.saved.tokens), row):
            known = min(self.saved.common(row.keys(0, len(text))), len(text))
            self.saved.load(self.target, store, place, known)
        self._run(store, place, row, text[known:])

    def _run(self, store: KVStore, sequence: int, row: Row, tokens: Sequence[int]) -> None:
        content = row.content if self.sees_content else None
        self.target.prefill(store, self.view, sequence, tokens, self.observers, row.span, content)

    def _turns_alike(self, length: int, row: Row) -> bool:
        regime = self.target.rotation.regime
        return regime(length) == regime(row.span)
