"""NearPages: selected pages of slower memory, kept where they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.cache.level import Level
from specdec.forward.layout import Segments
from specdec.forward.plan import Selection

Ints = NDArray[np.int64]
Fetch = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(eq=False)
class Pool:
    """Pages of one row of a level in one layer, for one text.

    k, v: `[Hkv, S, size, D]`; held: `int64[Hkv, S]`, the page in each slot, twice its number, and
    one more where its keys are the store's own; -1 for an empty slot.
    """

    size: int
    k: Tensor | None = None
    v: Tensor | None = None
    held: Ints = field(default_factory=lambda: np.full((0, 0), -1, np.int64))

    def hold(self, pages: Ints, exact: NDArray[np.bool_] | None, fetch: Fetch) -> Ints:
        """The slots of `pages[Hkv, n]` (-1: none), after fetching, in place, those that are not
        there; others make room for them.

        exact: where keys are to be the store's own; None for all. fetch(heads, pages, exact) gives
        k and v `[m, size, D]` of m pages.
        """
        heads, count = pages.shape
        code = np.where(pages < 0, -1, 2 * pages + (1 if exact is None else exact))
        self._widen(heads, count)
        head = np.arange(heads)[:, None]
        where = np.full((heads, max(code.max(initial=0), self.held.max(initial=0)) + 2), -1)
        where[head, self.held] = np.arange(self.held.shape[1])  # empty slots write to the last one
        slots = np.where(code < 0, -1, where[head, code])
        is_kept = np.zeros((heads, self.held.shape[1] + 1), bool)
        is_kept[head, slots] = True  # the last one is none's
        free = np.argsort(is_kept[:, :-1], axis=1, kind="stable")
        missing = (slots < 0) & (code >= 0)
        h, at = np.nonzero(missing)
        if len(h):
            mine = free[h, np.cumsum(missing, axis=1)[h, at] - 1]
            slots[h, at] = mine
            self.held[h, mine] = code[h, at]
            found = fetch(*(torch.from_numpy(x) for x in (h, pages[h, at], code[h, at] % 2 > 0)))
            place = torch.from_numpy(h), torch.from_numpy(mine)
            self.k, self.v = (
                _filled(x, y, self.held.shape, place)
                for x, y in zip((self.k, self.v), found, strict=True)
            )
        return slots

    def _widen(self, heads: int, count: int) -> None:
        """Room for `count` pages a head."""
        if self.held.shape[1] < count or len(self.held) < heads:
            held = np.full((heads, count), -1, np.int64)
            held[: len(self.held), : self.held.shape[1]] = self.held
            self.held = held

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.k, self.v) if x is not None)

    def crop(self, length: int) -> None:
        """Forget pages that are not full of committed tokens any more."""
        self.held[self.held // 2 >= length // self.size] = -1


@dataclass(eq=False)
class NearPages:
    """The pools of a level, by layer, row and sequence: a `Beside`. standing: for what each of them
    was last asked, and the slots."""

    of: dict[tuple[int, int, int], Pool] = field(default_factory=dict)
    standing: dict[tuple[int, int, int], tuple[object, Ints]] = field(default_factory=dict)

    @classmethod
    def beside(cls, level: Level, size: int) -> NearPages:
        """Those of a level with pages of `size` tokens, from the first call."""
        known = level.beside.setdefault(f"near pages of {size}", cls())
        assert isinstance(known, cls)
        return known

    @property
    def nbytes(self) -> int:
        return sum(pool.nbytes for pool in self.of.values())

    def crop(self, row: int, length: int) -> None:
        for key, pool in self.of.items():
            if key[1] == row:
                pool.crop(length)
                self.standing.pop(key, None)


def near_pages(
    level: Level, layer: int, x: Segments, selection: Selection, i: int, device: torch.device
) -> tuple[Pool, Ints]:
    """Pages of a sequence's level near the device, among them those that are selected of the i-th
    level which is selected from, and the slots `[Hkv, n]` of these; -1 for none."""
    at, _ = selection.levels[i]
    keys, values = level.k[layer], level.v[layer]
    assert keys is not None and values is not None
    near = NearPages.beside(level, selection.page_size)
    key = layer, x.rows[at], x.sequence
    pool = near.of.setdefault(key, Pool(selection.page_size))
    known = near.standing.get(key)
    if known is None or known[0] is not selection:

        def fetch(heads: Tensor, pages: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
            which = layer, key[1], heads, pages, pool.size, device
            v = level.bring_pages(values, *which)
            if selection.keys is None:
                return level.bring_pages(keys, *which), v
            k = v.new_empty(*v.shape[:2], keys.shape[-1])
            others = ~exact
            which = layer, key[1], heads[exact], pages[exact], pool.size, device
            k[exact] = level.bring_pages(keys, *which)
            if bool(others.any()):
                k[others] = selection.keys.keys(at, heads[others], pages[others]).to(k)
            return k, v

        exact = None if selection.keys is None else selection.keys.exact.cpu().numpy()
        slots = pool.hold(selection.local[i], exact, fetch)
        known = near.standing[key] = selection, slots
    return pool, known[1]


def _filled(
    old: Tensor | None, new: Tensor, slots: tuple[int, ...], place: tuple[Tensor, Tensor]
) -> Tensor:
    """The buffer with the fetched pages in it, made anew where there are more slots."""
    if old is None or old.shape[1] < slots[1]:
        grown = new.new_zeros(*slots, *new.shape[1:])
        if old is not None:
            grown[:, : old.shape[1]] = old
        old = grown
    old[place[0].to(old.device), place[1].to(old.device)] = new
    return old
