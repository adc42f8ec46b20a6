"""Prefill: prompts laid out in a store and read, and long stretches of text later on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch

from specdec.cache.cached_tokens import CachedTokens
from specdec.cache.level import Level
from specdec.cache.prompt_layout import Stage, stages
from specdec.cache.prompt_tree import branches
from specdec.cache.saved_text import SavedTexts
from specdec.cache.slots import Slots
from specdec.cache.store import KVStore
from specdec.errors import OutOfMemory
from specdec.forward.forward_pass import View
from specdec.forward.observer import Observer
from specdec.kernels.attention.level_attention import PART
from specdec.model.target import Target
from specdec.offload.tiered_store import TieredStore
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES

LONG = 64  # pending tokens from which a causal prefill is better than a tree pass
# Staged slots beyond the text: a tree whose passes are padded, at most to twice their width, and
# what was pending before it.
SLACK = 2 * (MAX_NODES + LONG)

Spill = Callable[[Level, int, int, torch.device], None]


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
        saved: SavedTexts | None = None,
        on_spill: Sequence[Spill] = (),
        sees_content: bool = True,
    ) -> None:
        self.target, self.view = target, view
        self.observers, self.saved, self.on_spill = observers, saved, on_spill
        self.sees_content = sees_content
        self._shares = False

    def store(self, rows: Sequence[Row], slots: Slots) -> KVStore:
        """A store with every prompt but its last token; what several begin with is read once."""
        self._shares = slots.shares
        of = {row.slot: row for row in rows}
        first, *later = plan = self._plan(of, slots)
        rooms = [(stage.rows, stage.capacity) for stage in later]
        store = self.target.new_store(first.rows, first.capacity, rooms)
        if isinstance(store, TieredStore):
            store.on_spill = self.on_spill
        for at, stage in enumerate(plan):
            if at:
                before = plan[at - 1]
                sources = before.row_map if at == 1 else before.leaders
                store.stack(sources, stage.capacity, stage.row_map)
            for piece in stage.pieces:
                leader, start = piece.members[0], piece.start
                sequence = leader if at else piece.row
                if piece.alike > start and not store.places and not self.observers:
                    store.copy(
                        sequence,
                        piece.source if at else stage.row_map[piece.source],
                        piece.alike,
                    )
                    start = piece.alike
                self._read(store, sequence, of[leader], start, piece.end)
        store.claim(list(of))
        return store

    def _plan(self, rows: Mapping[int, Row], slots: Slots) -> list[Stage]:
        """How the KV of prompts, by slot, is laid out.

        Samples of one prompt share it, unless nothing is to be shared. Other prompts share nothing,
        and all rows of a level are equal, where a view chooses among a level's keys, whose text
        must not depend on who is beside it; nor does what may be read anew for one of them. Where
        KV goes to tiers rows of a level are equal, too. Where a token has the same bits in any pass
        levels begin where attention begins a part, so that it keeps them.
        """
        rotation, least = self.target.rotation, slots.tokens
        rooms = [least + SLACK if least else 1] * slots.count
        kinds: dict[int, Hashable] = {}
        apart: list[bool] = []
        for slot, row in rows.items():
            rooms[slot] = max(row.max_tokens, least) + SLACK
            is_reread = rotation.must_reread(row.span, row.max_tokens + row.behind)
            group = None if self.view.lossless else row.prompt_index
            alone = slot if is_reread or not slots.shares else None
            apart.append(is_reread)
            kinds[slot] = rotation.regime(row.span), alone, group
        texts = {slot: row.keys(0, len(row.tokens) - 1) for slot, row in rows.items()}
        lengths = {slot: len(text) for slot, text in texts.items()}
        found = branches(texts, kinds, whole=lambda slot, end: _uncut(rows[slot], end))
        is_plain = all(row.content is None for row in rows.values())
        unit = PART if is_plain and self.target.keeps_bits else 1
        plan = stages(found, lengths, rooms, self.view.lossless and not any(apart), unit)
        if not self.target.has_room(sum(stage.slots for stage in plan)):
            plan = stages(found, lengths, rooms, False, unit)
        return plan

    def add(self, store: KVStore, rows: Sequence[Row], held: Mapping[int, CachedTokens]) -> None:
        """Read more prompts, each into a slot that is handed out to it, all of them or none.

        held: what the store holds of the texts that are there, by slot. A prompt that begins as one
        of them reads that text's levels, as far as they end within the prompt.
        """
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
                source, shared, start = self._alike(store, row, held)
                taken.append(store.acquire(row.slot, source, shared))
                self._read(store, row.slot, row, start, len(row.tokens) - 1)
        except BaseException:
            for slot in taken:
                store.release(slot)
            raise

    def _alike(
        self, store: KVStore, row: Row, held: Mapping[int, CachedTokens]
    ) -> tuple[int, int, int]:
        """Whose levels a prompt that joins can read: the slot, how many levels, and how many tokens
        they hold.

        Nobody's where `_plan` would not share, nor on tiers, whose lower levels move, nor where
        prompts are watched, since what is noted of them stands with each text, nor where more of
        the prompt is saved.
        """
        best = -1, 0, 0
        is_reread = self.target.rotation.must_reread(row.span, row.max_tokens + row.behind)
        is_own = store.places or self.observers or row.content is not None or is_reread
        if is_own or not self._shares or not self.view.lossless:
            return best
        text = row.tokens[:-1]
        for slot, theirs in held.items():
            if theirs.content is not None or not self._turns_alike(theirs.length, row):
                continue
            start = 0
            for shared, end in enumerate(store.ends(slot), 1):
                if end > len(text) or theirs.tokens[start:end] != text[start:end]:
                    break
                start = end
                if end > best[2]:
                    best = slot, shared, end
        saved = None if self.saved is None else self.saved.nearest(text)
        is_saved = saved is not None and saved.common(text) > best[2]
        return (-1, 0, 0) if is_saved else best

    def go_on(self, store: KVStore, row: Row, tokens: Sequence[int]) -> None:
        """Read tokens of a row behind those that its store holds, all of them or none."""
        held = store.length(row.slot)
        try:
            self._run(store, row.slot, row, tokens)
        except BaseException:  # some of it may have been committed
            store.crop(row.slot, held)
            raise

    def _read(self, store: KVStore, sequence: int, row: Row, start: int, end: int) -> None:
        """Have tokens `start .. end` of a row's prompt behind what a sequence holds."""
        keys = row.keys(0, len(row.tokens) - 1)
        saved = None if start or self.saved is None else self.saved.nearest(keys)
        if saved is not None and self._turns_alike(len(saved.tokens), row):
            start = min(saved.common(keys), end)
            saved.load(self.target, store, sequence, start)
        self._run(store, sequence, row, row.tokens[start:end])

    def _run(self, store: KVStore, sequence: int, row: Row, tokens: Sequence[int]) -> None:
        content = row.content if self.sees_content else None
        self.target.prefill(store, self.view, sequence, tokens, self.observers, row.span, content)

    def _turns_alike(self, length: int, row: Row) -> bool:
        regime = self.target.rotation.regime
        return regime(length) == regime(row.span)


def _uncut(row: Row, end: int) -> int:
    """The last place up to `end` that is not inside what a row reads as one span."""
    spans = () if row.content is None else row.content.spans
    inside = [span.start for span in spans if span.start < end < span.end]
    return min([end, *inside])
