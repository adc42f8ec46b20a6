"""LongSpecModel: runs a LongSpec block over trees of draft tokens, and follows the rows' text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.embedded import Embedded
from specdec.drafts.longspec.far_reads import FarReads, near_reads
from specdec.drafts.longspec.nodes import Nodes
from specdec.drafts.longspec.prepared import Prepared
from specdec.drafts.longspec.window import Window
from specdec.errors import InvalidArgument
from specdec.forward.view_reads import ReadStats
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.kernels.linear.draft_block import Attended
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree


@dataclass(frozen=True)
class _Newest:
    """What the target knows of a row's text: `state[1, S]` of the newest of its `committed` cached
    tokens."""

    state: Tensor
    committed: int


class LongSpecModel:
    """A block that reads the KV of `verifier`'s target; a `TreeModel`.

    Its own memory is a window of keys and values per row, and the nodes of the tree in hand.
    """

    def __init__(self, target: Target, parts: Prepared, verifier: CachedModel) -> None:
        self.target, self.block, self.rotary = target, parts.block, parts.rotary
        self.head, self.ids, self.packed = parts.head, parts.ids, parts.packed
        sizes = self.block.sizes
        self.verifier = verifier
        self.holder = verifier.holder
        _check_near(self.holder.store, sizes.kv_layer, target.device)
        self.embedded = Embedded(target, self.head.weight.dtype)
        count = verifier.store.sequences
        like = self._window_kv([0], 0)
        self.window = Window(count, sizes.window, like)
        self.nodes = Nodes(count, like)
        self.newest: dict[int, _Newest] = {}  # by slot
        self.far: dict[tuple[int, ...], FarReads] = {}  # of this round

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values of the drafter's own, the same for every length of context."""
        return self.window.nbytes + self.nodes.nbytes

    def join(self, rows: Sequence[Row]) -> None:
        """Nothing: a row's window follows its text."""

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.window.forget(row.slot)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row], trees: Sequence[TokenTree]) -> list[Tensor]:
        """Logits `[1, columns]` after the root of each row's tree, which begins a round."""
        for row in rows:
            nested = self.holder is not self.verifier
            self.holder.sync_to(row, (row.num_final if nested else len(row.tokens)) - 1)
            self.window.follow(row.slot, row.tokens[:-1], self._window_kv)
        self.newest = {row.slot: self._newest(row) for row in rows}
        self.far = {}
        ahead = [row.tokens[-2] if len(row.tokens) > 1 else -1 for row in rows]
        self.nodes.begin([row.slot for row in rows], ahead)
        return list(self._run(rows, [[tree.tokens[0]] for tree in trees], [[-1]] * len(rows)))

    def root_slot(self, row: Row) -> int:
        """The slot of the root in `grow`'s numbering."""
        return 0

    @torch.inference_mode()
    def grow(
        self, rows: Sequence[Row], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> tuple[int, Tensor]:
        """Read more nodes below those of this round."""
        first, width = self.nodes.count, max(map(len, tokens))
        padded = [[*new, *[0] * (width - len(new))] for new in tokens]
        above = [[*new, *[-1] * (width - len(new))] for new in parents]
        return first, self._run(rows, padded, above)

    def reads(self, sequence: int) -> dict[str, ReadStats]:
        """Nothing: its own window is no view of the target."""
        return {}

    def _run(
        self, rows: Sequence[Row], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> Tensor:
        """One pass of the block over `n` new nodes a row: logits `[B, n, columns]`."""
        slots, first = [row.slot for row in rows], self.nodes.count
        ahead = self.nodes.add(slots, tokens, parents)
        x, before = self.embedded.of([*chain.from_iterable(tokens), *ahead]).view(
            2, len(rows), len(tokens[0]), -1
        )
        depth = self.nodes.depth[slots, first : self.nodes.count]
        roots = np.array([len(row.tokens) - 1 for row in rows])[:, None]
        newest = [self.newest[slot] for slot in slots]
        committed = np.array([one.committed for one in newest])
        lags = (roots[:, 0] + 1 + depth[:, 0] - committed).tolist()
        positions = turned = torch.from_numpy(roots + depth).to(self.target.device)
        if any(row.offset for row in rows):  # the target's keys are rotated by more than places
            turned = positions + torch.tensor([[row.offset] for row in rows]).to(positions)
        state = torch.cat([one.state for one in newest])
        start = np.array([self.window.start[slot] for slot in slots])[:, None]
        bounds = roots + depth - (self.block.sizes.window - 1) - start
        seen = self.nodes.seen(slots, first, self.block.sizes.window)
        far = self._far(slots)
        if self.packed is not None:
            near = near_reads(slots, self.window.length, bounds, self.nodes.count, seen)
            return self.packed.scores(
                x, before, state, lags, positions, turned,
                Attended([(self.window.k, self.window.v), (self.nodes.k, self.nodes.v)], near),
                far.attended, self.nodes.staging(slots, first),
            )  # fmt: skip
        block, scale = self.block, self.block.sizes.head_dim**-0.5
        states = [block.newest(one[None, None], lag) for one, lag in zip(state, lags, strict=True)]
        h = block.start(x, before) + torch.cat(states)
        q = block.self_query(x, self.rotary, positions)
        self.nodes.stage(slots, first, *block.window_kv(x, self.rotary, positions))
        h = h + block.self_output(self._near(q, slots, bounds, seen))
        asked = block.cross_query(h, x, self.rotary, turned)
        h = h + block.cross_output(far.attention(asked, block.sizes.value_dim, scale))
        scores: Tensor = self.head(block.finish(h))
        return scores

    def _newest(self, row: Row) -> _Newest:
        """What the target has cached of the newest token it knows; zeros where it knows none."""
        store, layer = self.holder.store, self.block.sizes.kv_layer
        committed = store.length(row.slot)
        for level, row_map in zip(reversed(store.levels), reversed(store.row_maps), strict=True):
            place = int(row_map[row.slot])
            end = int(level.length[place])
            keys, values = level.k[layer], level.v[layer]
            if end and keys is not None and values is not None:
                k, v = (x[place : place + 1, :, end - 1 : end] for x in (keys, values))
                position = torch.tensor([[committed - 1 + row.offset]], device=self.target.device)
                if self.packed is not None:
                    state = self.packed.state(k, v, position)
                else:
                    state = self.block.state(k, v, self.rotary, position)
                return _Newest(state[0], committed)
        sizes = self.block.sizes
        width = sizes.num_kv_heads * (sizes.head_dim + sizes.value_dim)
        return _Newest(self.head.weight.new_zeros(1, width), 0)

    def _near(
        self, q: Tensor, slots: list[int], bounds: NDArray[np.int64], seen: NDArray[np.uint64]
    ) -> Tensor:
        """Self-attention over the window and the nodes of the tree: `[B, H, n, D]`."""
        window, scale = self.window, self.block.sizes.head_dim**-0.5
        rows = torch.tensor(slots, dtype=torch.int32)
        first = torch.from_numpy(bounds).to(q.device)
        prefix = prefix_attention(
            q, window.k, window.v, window.length, rows, scale=scale, first=first
        )
        k, v = (x[slots, :, : self.nodes.count] for x in (self.nodes.k, self.nodes.v))
        words = torch.from_numpy(seen.view(np.int64)).to(q.device)
        return merge([prefix, tree_attention(q, k, v, words, scale=scale)])[0].to(q.dtype)

    def _far(self, slots: list[int]) -> FarReads:
        """What cross-attention reads in this round."""
        key = tuple(slots)
        if key not in self.far:
            self.far[key] = self._far_reads(slots)
        return self.far[key]

    def _far_reads(self, slots: list[int]) -> FarReads:
        """The target's committed KV of one layer, each row of a level once."""
        layer, store, far = self.block.sizes.kv_layer, self.holder.store, FarReads(len(slots))
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            keys, values = level.k[layer], level.v[layer]
            if keys is None or values is None:
                continue
            sharing: dict[int, list[int]] = {}
            for b, row in enumerate(row_map[slots].tolist()):
                sharing.setdefault(row, []).append(b)
            far.levels.append((keys, values))
            for row, members in sharing.items():
                far.add(len(far.levels) - 1, row, 0, int(level.length[row]), members)
        return far

    def _window_kv(self, tokens: list[int], first: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(first, first + len(tokens), device=self.target.device)[None]
        x = self.embedded.of(tokens)[None]
        if self.packed is not None:
            return self.packed.window_kv(x, positions)
        return self.block.window_kv(x, self.rotary, positions)


def _check_near(store: KVStore, layer: int, device: torch.device) -> None:
    """Raise unless the KV that every draft token reads can be read where it lies."""
    elsewhere = any(
        k is not None and k.device != device for k in (x.k[layer] for x in store.levels)
    )
    if elsewhere:
        raise InvalidArgument(
            f"drafter 'longspec' reads all of layer {layer}'s KV for every draft token, and it is "
            "in another memory: keep it on the device, with kv_tier= a tier for each layer"
        )
