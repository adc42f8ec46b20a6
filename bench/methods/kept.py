"""Kept: bytes that a method keeps besides keys and values."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, TypeVar

from torch import Tensor

from specdec.bench.views.attention_mass import Walk
from specdec.bench.views.drafted import DraftedView
from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import PromptQueries

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Touched(dict[K, V]):
    """A dictionary that knows which of its keys were asked for."""

    def __init__(self, known: dict[K, V]) -> None:
        super().__init__(known)
        self.touched: set[K] = set()

    def get(self, key: K, default: Any = None) -> Any:
        self.touched.add(key)
        return super().get(key, default)

    def setdefault(self, key: K, default: Any = None) -> Any:
        self.touched.add(key)
        return super().setdefault(key, default)

    def __getitem__(self, key: K) -> V:
        self.touched.add(key)
        return super().__getitem__(key)


class Kept:
    """Which of what lies beside a walk's store belongs to whom: what they ask for.

    Several methods may share an index, and each is then charged with it.
    """

    def __init__(self, walk: Walk) -> None:
        store = walk.model.store
        store.notes = self.notes = Touched(store.notes)
        self.level = store.levels[0]
        self.level.beside = self.beside = Touched(self.level.beside)
        self._of: dict[int, tuple[set[Hashable], set[Hashable]]] = {}

    def watch(self, drafted: DraftedView) -> None:
        """What is asked for from now on belongs to this view, until another is watched."""
        mine = self._of.setdefault(id(drafted), (set(), set()))
        self.notes.touched, self.beside.touched = mine

    def nbytes(self, drafted: DraftedView) -> int:
        """Bytes of what a view has asked for, of its selections and the entries in them."""
        notes, beside = self._of[id(drafted)]
        total = sum(dict.__getitem__(self.beside, key).nbytes for key in beside & set(self.beside))
        for key in notes & set(self.notes):
            kept: Any = dict.__getitem__(self.notes, key)
            is_shared = isinstance(kept, PromptQueries)
            total += of_queries(kept, drafted.view.needs) if is_shared else kept.nbytes
        return total + sum(x.nbytes for x in _selected(drafted))

    def forget(self) -> None:
        """Drop, in place, what methods keep beside the level."""
        self.beside.clear()


def of_queries(kept: PromptQueries, needs: Needs) -> int:
    """Bytes of the first sequence's queries that a view with these needs has kept."""
    total = 0
    for queries in kept.window[0].values() if needs.prompt_queries else ():
        total += queries.last(needs.prompt_queries).q.nbytes
    for queries in kept.probes[0].values() if needs.probe_every else ():
        total += queries.every(needs.probe_every).q.nbytes
    return total


def _selected(drafted: DraftedView) -> Iterator[Tensor]:
    every = drafted.model.state.sequences.values()
    for selection in (x for mine in every for x in mine.selections.values()):
        if selection.pages is not None:
            yield selection.pages
        if selection.entries is not None:
            yield from (selection.entries.k, selection.entries.v, selection.entries.log_weight)
