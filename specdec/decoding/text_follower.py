"""TextFollower: brings a store in line with the rows' token lists before each pass."""

from __future__ import annotations

from specdec.cache.cached_tokens import CachedTokens
from specdec.cache.store import KVStore
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.rotation import Rotation
from specdec.sampling.sequence import Row


class TextFollower:
    """What a store holds of each row, and how it follows the text.

    Nobody tells it what was accepted: it compares the row's tokens with what the store holds,
    commits the staged slots that the text went through, and forgets what was taken back.

    held, rounds: by slot; the latter how often its row was looked at, or its base has moved on.
    recorder: hears which nodes of the last pass the text went through.
    base: the follower of a store that this one's lies over: its committed text is read in place of
    an own one, and what was written over it is dropped when it moves on.
    """

    def __init__(
        self,
        store: KVStore,
        slots: int,
        rotation: Rotation,
        recorder: QueryRecorder | None = None,
        base: TextFollower | None = None,
    ) -> None:
        self.store, self.base = store, base
        self.rotation, self.recorder = rotation, recorder
        self.held = [CachedTokens() for _ in range(slots)]
        self.rounds = [0] * slots

    def join(self, row: Row) -> None:
        """The store holds the row's text but its last token, for good; with a base, nothing yet."""
        held = self.held[row.slot] = CachedTokens(content=row.content)
        if self.base is None:
            held.hold(row.keys(0, len(row.tokens) - 1), len(row.tokens) - 1)
            held.length = row.span

    def leave(self, row: Row) -> None:
        """The row's slot is another's from now on."""
        self.held[row.slot] = CachedTokens()
        if self.recorder is not None:
            self.recorder.forget(row.slot)

    def sync(self, row: Row) -> list[int]:
        """Bring the store in line with the row; the tokens that it has not read, in order."""
        held, text = self.held[row.slot], row.tokens
        held.content = row.content
        if self.base is not None:
            self._sync_base(row, self.base)
        self.sync_to(row, len(text) - 1)
        if self.base is None:
            if self.rotation.must_reread(held.length, row.span):
                self.store.crop(row.slot, 0)
                held.tokens, held.num_final = [], 0
            self.rounds[row.slot] += 1
        held.length = row.span
        return text[len(held.tokens) :]

    def sync_to(self, row: Row, upto: int) -> None:
        """Bring the store in line with the row's first `upto` tokens, as far as it read them."""
        held = self.held[row.slot]
        keep = start = min(held.num_final, len(held.tokens))
        text = row.keys(start, max(start, upto))
        while keep < min(len(held.tokens), upto) and held.tokens[keep] == text[keep - start]:
            keep += 1
        if keep < len(held.tokens):
            self.store.crop(row.slot, keep)
            del held.tokens[keep:]
        elif held.slots:
            path = held.path(text[len(held.tokens) - start :])
            self.store.commit(row.slot, path)
            held.commit(path)
            if self.recorder is not None:
                self.recorder.note_path(row.slot, path, self.store)
        held.unstage()
        held.num_final = min(row.num_final, len(held.tokens))

    def root_slot(self, row: Row) -> int:
        """The slot of the root of the tree that was staged last."""
        return len(row.tokens) - 1 - len(self.held[row.slot].tokens)

    def _sync_base(self, row: Row, base: TextFollower) -> None:
        """Read what the base has committed since; our own tokens are then out of place."""
        base.sync_to(row, row.num_final - 1)
        held, below = self.held[row.slot], base.held[row.slot]
        if held.base != len(below.tokens):
            held.tokens, held.base = list(below.tokens), len(below.tokens)
            held.num_final = held.base
            held.unstage()
            self.store.levels[-1].crop(row.slot, 0)
            self.rounds[row.slot] += 1
