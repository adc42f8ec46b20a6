"""CachedModel: a model with a KV store that follows the rows' token lists."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.cache.cached_tokens import Held, depths
from specdec.cache.ragged import Ragged, Room, cut
from specdec.cache.store import KVStore, Level
from specdec.control.calibration import costs_of
from specdec.control.costs import PassCosts
from specdec.control.crowd import crowd
from specdec.forward.forward_pass import ForwardPass, Observer, View
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.static_inputs import PassInputs, PassShape, padded
from specdec.forward.view_reads import ReadStats
from specdec.forward.view_state import ViewState
from specdec.kernels.cpu.thread_limit import cpu_quota
from specdec.model.target import Target
from specdec.offload.saved_prompt import SavedPrompt
from specdec.offload.tiered_store import TieredStore
from specdec.sampling.sequence import Row
from specdec.sampling.tree import MAX_NODES, TokenTree, ancestor_words

_LONG = 64  # pending tokens from which a causal prefill is better than a tree pass
# Staged slots beyond the text: a tree whose passes are padded, at most to twice their width, and
# what was pending before it.
SLACK = 2 * (MAX_NODES + _LONG)


class CachedModel:
    """Runs trees of draft tokens for rows, and keeps their KV as far as it proves true.

    Nobody tells it what was accepted: before each pass it compares the row's tokens with what it
    holds, commits the staged slots that the text went through, forgets what was taken back, and
    feeds what it has not seen. So drafters can share rows, take over from each other and nest.

    base: another CachedModel of the same model, whose committed KV this one reads in place of its
    own; what it writes itself goes to a level of its own and is dropped when the base moves on.
    recorder: keeps queries of prompts and of this model's passes for those who ask for them.
    watch: sees all calls of this model's passes over nodes.
    saved: the start of every prompt, which need not be read again. on_spill: see `Wants`.
    """

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
        saved: SavedPrompt | None = None,
        on_spill: Sequence[Callable[[Level, int, int, torch.device], None]] = (),
    ) -> None:
        self.target, self.view, self.base, self.saved = target, view, base, saved
        self.on_spill = on_spill
        if base is None:
            target.begin()
        self.recorder: QueryRecorder | None = base.recorder if base is not None else recorder
        self.held = [Held() for _ in range(1 + max(row.index for row in rows))]
        self.rounds = [0] * len(self.held)
        self.state = ViewState(queries=self.recorder)
        own = recorder if base is None else None
        self.chunk_observers: Sequence[Observer] = [] if own is None else [own]
        self.observers: Sequence[Observer] = [
            *(x for x in (own,) if x is not None and x.verified),
            *watch,
        ]
        self._is_on_cpu = target.device.type == "cpu"
        self.store: KVStore = self._prefilled(rows) if base is None else base.store.overlay(SLACK)

    @cached_property
    def costs(self) -> PassCosts:
        """What passes over committed text take here; those of a sparse view are not kept."""
        return costs_of(self.target, self.store.places) if self.view.lossless else PassCosts()

    def _prefilled(self, rows: Sequence[Row]) -> KVStore:
        """A store with every prompt but its last token; rows of one prompt share its KV."""
        # What rows share cannot be read anew for one of them.
        reread = self.target.rotation.must_reread
        apart = any(reread(row.span, row.max_tokens + row.behind) for row in rows)
        prompts = {row.index if apart else row.prompt_index: row for row in reversed(rows)}
        samples = len(rows) // len(prompts)
        count = len(self.held) // samples
        places = {row.index // samples: row for row in prompts.values()}  # may lack some of them
        ragged = self._ragged(places, count, samples, apart)
        if ragged.long:
            store = self.target.new_store(len(ragged.long) + 1, ragged.prompts)
            for place, number in enumerate(ragged.long):
                self._read(store, place, places.pop(number), self.chunk_observers)
            store.stack(ragged.row_map(count), ragged.capacity)
        else:
            store = self.target.new_store(count, ragged.capacity)
        if isinstance(store, TieredStore):
            store.on_spill = self.on_spill
        # Queries are noted by rows of the first level, and these are not in it.
        observers = () if ragged.long else self.chunk_observers
        for place, row in sorted(places.items()):
            self._read(store, place, row, observers)
        if samples > 1:
            new = max(row.max_tokens - row.num_prompt_tokens for row in rows)
            store.fork(samples, new + SLACK)
        for row in rows:
            held = self.held[row.index]
            held.tokens, held.sure = row.tokens[:-1], len(row.tokens) - 1
            held.length = row.span
        return store

    def _ragged(self, places: dict[int, Row], count: int, samples: int, apart: bool) -> Ragged:
        """How the KV of prompts is laid out: by a level of equal rows unless that is a waste.

        Equal rows it stays where one of them may be read anew, which a shared level cannot; where a
        view chooses among a level's keys, whose text must not depend on who is beside it; and where
        KV goes to tiers.
        """
        rooms = [Room(0, 1)] * count
        for place, row in places.items():
            prompt = row.num_prompt_tokens
            rooms[place] = Room(prompt, prompt if samples > 1 else row.max_tokens + SLACK)
        found = cut(rooms)
        if apart or not self.view.lossless or not self.target.has_room(found.slots):
            whole = max(room.whole for room in rooms)
            return Ragged((), 0, whole, count * whole)
        return found

    def _read(self, store: KVStore, place: int, row: Row, observers: Sequence[Observer]) -> None:
        """Have a row's prompt but its last token in an empty row of a store."""
        text, known = row.tokens[:-1], 0
        if self.saved is not None and self._turns_alike(len(self.saved.tokens), row):
            known = min(self.saved.common(text), len(text))
            self.saved.load(self.target, store, place, known)
        self._prefill(store, place, text[known:], row.span, observers)

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
            pending = self._catch_up(row)
            assert tree.tokens[0] == row.tokens[-1]
            chain = pending[:-1]  # a path down to the root of the tree
            starts.append(len(chain))
            tokens.append([*chain, *tree.tokens])
            parents.append(
                [
                    *range(-1, len(chain) - 1),
                    *(parent + len(chain) for parent in tree.parents),
                ]
            )
            # the root's parent -1 has become len(chain) - 1: the end of the chain, or none
        logits = self._stage(rows, tokens, parents, best)
        return [
            rows_logits[start : start + len(tree)]
            for rows_logits, start, tree in zip(logits, starts, trees, strict=True)
        ]

    def root_slot(self, row: Row) -> int:
        """The slot of the last tree's root, from which `grow` goes on."""
        return len(row.tokens) - 1 - len(self.held[row.index].tokens)

    @torch.inference_mode()
    def grow(
        self, rows: Sequence[Row], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> tuple[int, Tensor]:
        """Stage more nodes below those already staged in this round: `parents` are slots.

        Returns the first new slot (new nodes stand there in order) and the logits `[B, n, V]`,
        where rows with fewer nodes than n are padded.
        """
        first = max(len(self.held[row.index].slots) for row in rows)
        for row in rows:
            self.held[row.index].pad(first)
        return first, self._stage(rows, tokens, parents)

    def settle(self, row: Row, upto: int) -> None:
        """Bring the store in line with the row's first `upto` tokens, as far as it read them."""
        held, text = self.held[row.index], row.tokens
        keep = min(held.sure, len(held.tokens))
        while keep < min(len(held.tokens), upto) and held.tokens[keep] == text[keep]:
            keep += 1
        if keep < len(held.tokens):
            self.store.crop(row.index, keep)
            del held.tokens[keep:]
        elif held.slots:
            path = held.path(text[len(held.tokens) : upto])
            self.store.commit(row.index, path)
            held.commit(path)
            if self.recorder is not None and self.base is None:
                self.recorder.note_path(row.index, path)
        held.unstage()
        held.sure = min(row.stable, len(held.tokens))

    def reads(self, sequence: int) -> dict[str, ReadStats]:
        """What a sparse view has read for a row, under its name; the full one counts nothing."""
        known = self.state.reads.get(sequence)
        return {} if known is None else {self.view.name: known}

    def _catch_up(self, row: Row) -> list[int]:
        """Bring the store in line with the row; returns the tokens it has not read."""
        held, text = self.held[row.index], row.tokens
        if self.base is not None:
            self._rebase(row, self.base)
        self.settle(row, len(text) - 1)
        if self.base is None and self.target.rotation.must_reread(held.length, row.span):
            self.store.crop(row.index, 0)
            held.tokens, held.sure = [], 0
        held.length = row.span
        if self.base is None:
            self.rounds[row.index] += 1
        pending = text[len(held.tokens) :]
        if len(pending) > _LONG:
            # Noted by rows of the first level, where this one may have none of its own.
            is_first = int(self.store.row_maps[0][row.index]) == row.index
            observers = self.chunk_observers if is_first else ()
            try:
                self._prefill(self.store, row.index, pending[:-1], row.span, observers)
            except BaseException:  # some of it may have been committed
                self.store.crop(row.index, len(held.tokens))
                raise
            held.tokens.extend(pending[:-1])
            held.sure = min(row.stable, len(held.tokens))
            pending = pending[-1:]
        return pending

    def _rebase(self, row: Row, base: CachedModel) -> None:
        """Read what the base has committed since; our own tokens are then out of place."""
        base.settle(row, row.stable - 1)
        held, below = self.held[row.index], base.held[row.index]
        if held.base != len(below.tokens):
            held.tokens, held.base = list(below.tokens), len(below.tokens)
            held.sure = held.base
            held.unstage()
            self.store.levels[-1].crop(row.index, 0)
            self.rounds[row.index] += 1

    def _turns_alike(self, length: int, row: Row) -> bool:
        regime = self.target.rotation.regime
        return regime(length) == regime(row.span)

    def _prefill(
        self, store: KVStore, sequence: int, tokens: Sequence[int], length: int,
        observers: Sequence[Observer],
    ) -> None:  # fmt: skip
        self.target.prefill(store, self.view, sequence, tokens, observers, length)

    def _stage(
        self,
        rows: Sequence[Row],
        tokens: Sequence[list[int]],
        parents: Sequence[list[int]],
        best: bool = False,
    ) -> Tensor:
        """One pass over new slots of every row, padded to the widest."""
        if self._is_on_cpu:
            crowd.look(min(torch.get_num_threads(), cpu_quota()))
        helds = [self.held[row.index] for row in rows]
        first, width = len(helds[0].slots), max(map(len, tokens))
        ready = self._ready(rows)
        placed = ready is not None
        ahead = self._ahead(rows)
        if ahead is not None:
            width += 1
        if placed:
            width = padded(width)
        staged: list[tuple[list[int], list[int]]] = []  # what helds take up once all went well
        for held, new, above in zip(helds, tokens, parents, strict=True):
            rest = [-1] * (width - len(new))
            staged.append(([*held.slots, *new, *rest], [*held.parents, *above, *rest]))
        shape = PassShape.of(len(rows), width, first, len(self.store.levels))
        slots = shape.slots if placed else first + width
        places = torch.tensor(
            [
                [len(held.tokens) + depth for depth in depths(above)]
                for held, (_, above) in zip(helds, staged, strict=True)
            ]
        )
        if ahead is not None:
            places[0, -1] = ahead  # of a slot that nobody sees
        anc = ancestor_words([above for _, above in staged], slots)[:, first : first + width]
        ids = [[max(token, 0) for token in new[first:]] for new, _ in staged]
        if placed:
            out = self._run_placed(rows, ready, shape, first, torch.tensor(ids), places, anc)
        else:
            out = self._run(rows, first, ids, places, anc, best)
        for held, (new, above) in zip(helds, staged, strict=True):
            held.stage(new, above)
        return out

    def _run(
        self, rows: Sequence[Row], first: int, ids: list[list[int]], places: Tensor, anc: Tensor,
        best: bool,
    ) -> Tensor:  # fmt: skip
        """A pass whose inputs stand on the host."""
        places = places.to(self.target.device)
        pass_ = ForwardPass(
            self.store,
            self.view,
            [row.index for row in rows],
            positions=places[:, first:],
            staged=first,
            anc=anc.to(self.target.device),
            staged_positions=places,
            rounds=[self.rounds[row.index] for row in rows],
            state=self.state,
            observers=self.observers,
            layers=self.target.num_layers,
        )
        if best and self.target.can_choose:
            return self.target.choose(ids, pass_)
        return self.target.forward(ids, pass_)

    def _ahead(self, rows: Sequence[Row]) -> int | None:
        """A position that has a pass turned by the span of its rows, if it is beyond theirs."""
        if self.target.rotation.is_fixed or not any(row.behind for row in rows):
            return None
        return max(row.span for row in rows) - 1

    def _ready(self, rows: Sequence[Row]) -> Hashable | None:
        """All that a placed pass works on, its inputs apart; None where passes cannot be placed.

        Then the host says pass by pass what is read: of text that lies in other memory, by a view
        that chooses there, or because it is a CPU, whose kernels are told so.
        """
        if self.store.places or not self.target.places_passes:
            return None
        device, sequences = self.target.device, [row.index for row in rows]
        rounds = [self.rounds[sequence] for sequence in sequences]
        layers = self.target.full_layers
        besides = self.view.prepare(
            PassAhead(self.store, sequences, rounds, self.state, layers, device)
        )
        return None if besides is None else (besides, self.store.addresses(device))

    def _run_placed(
        self, rows: Sequence[Row], ready: Hashable, shape: PassShape, first: int, ids: Tensor,
        places: Tensor, anc: Tensor,
    ) -> Tensor:  # fmt: skip
        """The same pass with its inputs on the device, as a graph where there are graphs."""
        device, sequences = self.target.device, [row.index for row in rows]
        staged_positions = pad(places, (0, shape.slots - places.shape[1]))
        self.store.check_room(sequences, first + shape.nodes)

        def fill(inputs: PassInputs) -> None:
            row_maps = [rows[sequences] for rows in self.store.row_maps]
            inputs.fill(ids, places[:, first:], anc, staged_positions, row_maps, first)
            for level in self.store.levels:
                level.lengths_on(device)

        def run(inputs: PassInputs) -> tuple[Tensor, QueryRecorder | None]:
            noted = QueryRecorder(verified=True) if self.observers else None
            pass_ = ForwardPass(
                self.store,
                self.view,
                range(shape.rows),
                inputs.positions,
                anc=inputs.anc,
                staged_positions=inputs.staged_positions,
                state=self.state,
                observers=() if noted is None else (noted,),
                inputs=inputs,
            )
            return self.target.forward(inputs.ids, pass_), noted

        graphs = self.target.graphs_now()
        if graphs is None:
            inputs = PassInputs(shape, device)
            fill(inputs)
            logits, noted = run(inputs)
        else:
            logits, noted = graphs.run(self.view.name, ready, shape, device, fill, run)
        if self.recorder is not None and noted is not None:
            for (layer, place), q in noted.passes.items():
                self.recorder.note_pass(layer, sequences[place], q)
        return logits
