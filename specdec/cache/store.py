"""KVStore: the keys and values of a batch, as a short list of contiguous levels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from specdec.cache.beside import Notes
from specdec.cache.level import Level
from specdec.errors import SpecdecError
from specdec.kernels.cache.stage_kv import commit_path, stage_kv


class KVStore:
    """Committed and staged KV of `sequences` texts.

    A sequence reads, level after level, the committed part of row `row_maps[level][sequence]`; it
    writes to the last level only, where each that is decoded has a row of its own. Tokens of a pass
    are *staged* behind the row's length; `commit` keeps some of them by moving the length past
    them, and what is not committed needs no undoing, because length hides it.

    A sequence is a *slot*: `acquire` hands one out for a text, `release` takes it back, and then
    nothing of the text is left in it.

    notes: what methods keep of the texts of its sequences, by all that tells one such thing from
    another; overlays share them.
    """

    def __init__(self, num_layers: int, sequences: int, capacity: int) -> None:
        self.num_layers, self.capacity = num_layers, capacity
        self.places = ""  # where keys and values lie, if not all on the device
        self.levels = [Level(num_layers, sequences, capacity)]
        self.row_maps = [torch.arange(sequences, dtype=torch.int32)]
        self.num_shared = 0  # leading levels that belong to another store
        self.notes: dict[Hashable, Notes] = {}
        self._taken: set[int] = set()

    @property
    def sequences(self) -> int:
        return len(self.row_maps[-1])

    def row(self, sequence: int) -> int:
        """The row of the last level that a sequence writes to."""
        return int(self.row_maps[-1][sequence])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held, over all levels."""
        return sum(level.nbytes for level in self.levels)

    @property
    def room(self) -> int:
        """Tokens, staged ones included, that a text may have which begins in a free slot."""
        return self.levels[-1].capacity

    @property
    def free(self) -> list[int]:
        """The slots that can be handed out now."""
        slots = (s for s in range(self.sequences) if s not in self._taken)
        return [s for s in slots if self._shared_rows(s) is not None]

    def acquire(self, sequence: int | None = None, source: int = -1, shared: int = 0) -> int:
        """Hand out a slot for a text that begins: this one, or the first that is free.

        source, shared: a taken slot, and how many of the levels below the last one hold nothing but
        what both texts begin with: the new one reads them, too, and they stay while either does.
        Raises SpecdecError where it is another text's, or still tied to what others read.
        """
        if sequence is None:
            sequence = next(iter(self.free), -1)
        rows = self._shared_rows(sequence) if 0 <= sequence < self.sequences else None
        if rows is None or sequence in self._taken:
            which = "none" if sequence < 0 else f"slot {sequence} is not"
            raise SpecdecError(f"{which} of {self.sequences} slots of the KV store free")
        rows[:shared] = [int(x[source]) for x in self.row_maps[self.num_shared :][:shared]]
        for row_map, row in zip(self.row_maps[self.num_shared : -1], rows, strict=True):
            row_map[sequence] = row
        self._taken.add(sequence)
        return sequence

    def claim(self, sequences: Sequence[int]) -> None:
        """Hand out slots whose texts were laid out with the store."""
        self._taken.update(sequences)

    def release(self, sequence: int) -> None:
        """Take back a slot: what its text alone has read is forgotten, in place."""
        self._taken.discard(sequence)
        own = slice(self.num_shared, None)
        for level, rows in zip(self.levels[own], self.row_maps[own], strict=True):
            row = int(rows[sequence])
            if not any(int(rows[other]) == row for other in self._taken):
                level.crop(row, 0)
        if not self.num_shared:  # else the notes are those of the store below
            self.note_crop(sequence, 0)

    def _shared_rows(self, sequence: int) -> list[int] | None:
        """Of each level below the last one, an empty row that a new text may read; None where all
        hold what others read."""
        found: list[int] = []
        own = slice(self.num_shared, -1)
        for level, rows in zip(self.levels[own], self.row_maps[own], strict=True):
            mine = int(rows[sequence])
            empty = [row for row in (mine, *range(level.rows)) if not level.length[row]]
            if not empty:
                return None
            found.append(empty[0])
        return found

    def offset(self, sequence: int) -> int:
        """Tokens of `sequence` in the levels below the last one, which it shares."""
        pairs = zip(self.levels[:-1], self.row_maps[:-1], strict=True)
        return sum(int(level.length[rows[sequence]]) for level, rows in pairs)

    def ends(self, sequence: int) -> list[int]:
        """Where each of the levels below the last one ends in the text of `sequence`."""
        pairs = zip(self.levels[:-1], self.row_maps[:-1], strict=True)
        return list(accumulate(int(level.length[rows[sequence]]) for level, rows in pairs))

    def length(self, sequence: int) -> int:
        """Committed tokens of `sequence`, over all levels."""
        return self.offset(sequence) + int(self.levels[-1].length[self.row(sequence)])

    def stage(self, layer: int, sequences: Sequence[int], k: Tensor, v: Tensor, at: int) -> None:
        """Write `k, v: [B, Hkv, n, D]` of one layer, in place, to staged slots `at .. at + n`."""
        level = self.levels[-1]
        keys, values = level.buffers(layer, k, v)
        rows = self.row_maps[-1][list(sequences)]
        self.check_room(sequences, at + k.shape[2])
        # On a GPU the plain version writes to slices that the host knows: no launch of ours for it.
        write = stage_kv.plain if keys.is_cuda else stage_kv
        write(keys, values, k, v, level.length, rows, at=at)

    def check_room(self, sequences: Sequence[int], count: int) -> None:
        """Raise SpecdecError unless `count` slots can be staged for each of `sequences`."""
        level = self.levels[-1]
        lengths = level.length.tolist()
        rows = self.row_maps[-1].tolist()
        end = max(lengths[rows[sequence]] for sequence in sequences) + count
        if end > level.capacity:
            raise SpecdecError(f"KV store of {level.capacity} slots cannot stage slot {end}")

    def addresses(self, device: torch.device) -> tuple[tuple[int, ...], ...]:
        """Sizes and addresses of all that a pass on `device` reads and writes in the store."""
        return tuple(level.addresses(device) for level in self.levels)

    def staged(self, layer: int, sequences: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """The first `count` staged slots of one layer: k, v `[B, Hkv, count, D]`.

        A view for a single sequence, a copy for several.
        """
        level = self.levels[-1]
        keys, values = level.k[layer], level.v[layer]
        assert keys is not None and values is not None
        rows = self.row_maps[-1][list(sequences)].tolist()
        spans = [(row, int(level.length[row])) for row in rows]
        if len(spans) == 1:
            ((s, start),) = spans
            return keys[s : s + 1, :, start : start + count], values[
                s : s + 1, :, start : start + count
            ]
        return (
            torch.stack([keys[s, :, start : start + count] for s, start in spans]),
            torch.stack([values[s, :, start : start + count] for s, start in spans]),
        )

    def commit(self, sequence: int, path: Sequence[int]) -> None:
        """Keep the staged slots `path` (strictly increasing), in this order, behind the length."""
        level, row = self.levels[-1], self.row(sequence)
        if any(slot != i for i, slot in enumerate(path)):
            where: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
            for keys, values in zip(level.k, level.v, strict=True):
                if keys is None or values is None:
                    continue
                if keys.device not in where:
                    slots = torch.tensor([list(path)], dtype=torch.int32)
                    rows = torch.tensor([row], dtype=torch.int32)
                    where[keys.device] = (
                        slots.to(keys.device, non_blocking=True),
                        level.lengths_on(keys.device),
                        rows.to(keys.device, non_blocking=True),
                    )
                commit_path(keys, values, *where[keys.device])
        level.extend(row, len(path))

    def copy(self, sequence: int, source: int, end: int) -> None:
        """Take up what `source` holds up to token `end` behind what `sequence` holds, as its own:
        their texts are the same so far."""
        last, row = self.levels[-1], self.row(sequence)
        start, to, offset = self.length(sequence), int(self.levels[-1].length[row]), 0
        for level, rows in zip(self.levels, self.row_maps, strict=True):
            from_row = int(rows[source])
            held = int(level.length[from_row])
            low, high = max(start, offset), min(end, offset + held)
            for layer, (k, v) in enumerate(zip(level.k, level.v, strict=True)):
                if k is not None and v is not None and low < high:
                    part = slice(low - offset, high - offset)
                    for mine, theirs in zip(last.buffers(layer, k, v), (k, v), strict=True):
                        room = slice(to + low - start, to + high - start)
                        mine[row, :, room] = theirs[from_row, :, part]
            offset += held
        last.extend(row, end - start)

    def crop(self, sequence: int, length: int) -> None:
        """Forget committed tokens of `sequence` past `length`; shared levels cannot be cropped."""
        offset = self.offset(sequence)
        if not offset <= length <= self.length(sequence):
            raise SpecdecError(
                f"cannot crop sequence {sequence} to {length} tokens: it has "
                f"{self.length(sequence)}, of which {offset} are shared"
            )
        self.levels[-1].crop(self.row(sequence), length - offset)
        self.note_crop(sequence, length)

    def note_crop(self, sequence: int, length: int) -> None:
        """Have the notes of a sequence forget its tokens past `length`."""
        for notes in self.notes.values():
            notes.crop(sequence, length)

    def stack(
        self, sources: Sequence[int], capacity: int, row_map: Sequence[int] | None = None
    ) -> None:
        """Go on with other sequences: s reads all that sequence `sources[s]` has read, and writes
        to a level that is pushed. Nothing is copied.

        row_map: the row of each there; None gives each its own. Where several have one, it is
        written to for all of them at once, by any of them.
        """
        chosen = list(sources)
        for notes in self.notes.values():
            notes.fork(chosen)
        self.row_maps = [rows[chosen] for rows in self.row_maps]
        rows = list(range(len(chosen))) if row_map is None else list(row_map)
        self._push(1 + max(rows), capacity, torch.tensor(rows, dtype=torch.int32))
        self.capacity += capacity

    def _push(self, rows: int, capacity: int, row_map: Tensor) -> None:
        """Another level on top."""
        self.levels.append(self.levels[-1].another(rows, capacity))
        self.row_maps.append(row_map)

    def overlay(self, capacity: int) -> KVStore:
        """A store that reads this one's levels and writes to one of its own, of `capacity`.

        What a draft view of the same model writes is provisional: it never touches this store.
        """
        store = KVStore(self.num_layers, self.sequences, capacity)
        store.levels[:0], store.row_maps[:0] = self.levels, self.row_maps
        store.num_shared, store.notes = len(self.levels), self.notes
        return store
