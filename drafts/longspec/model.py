"""LongSpecModel: runs a LongSpec block over trees of draft tokens, and follows the rows' text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.far_reads import FarReads, attended, near_reads
from specdec.drafts.longspec.prepared import Prepared
from specdec.drafts.longspec.window import Window
from specdec.errors import InvalidArgument
from specdec.forward.view_reads import ReadStats
from specdec.kernels.attention.level_attention import Reads, level_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree, ancestor_words


class _Nodes:
    """A row's nodes of this round, and what the target knows of the text before them.

    state: `[1, 1, S]`, of the newest of its `committed` cached tokens.
    """

    def __init__(self, newest: tuple[Tensor, int]) -> None:
        self.state, self.committed = newest
        self.tokens: list[int] = []
        self.parents: list[int] = []

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        """Add nodes, in place."""
        self.tokens.extend(tokens)
        self.parents.extend(parents)

    def depths(self) -> list[int]:
        """Distance of each node from the root."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths


class LongSpecModel:
    """A block that reads the KV of `verifier`'s target; a `TreeModel`.

    Its own memory is a window of keys and values per row, and the nodes of the tree in hand.
    """

    def __init__(self, target: Target, parts: Prepared, verifier: CachedModel) -> None:
        self.target, self.block, self.rotary = target, parts.block, parts.rotary
        self.head, self.ids, self.packed = parts.head, parts.ids, parts.packed
        block = self.block
        self.verifier = verifier
        self.holder = verifier.holder
        _check_near(self.holder.store, block.sizes.kv_layer, target.device)
        embedding = target.model.get_input_embeddings()
        assert embedding is not None
        self.embedding = embedding
        count = verifier.store.sequences
        self.window = Window(count, block.sizes.window, self._window_kv([0], 0))
        self.nodes: dict[int, _Nodes] = {}
        self.staged: tuple[Tensor, Tensor] | None = None  # k, v of nodes, for the rows of `order`
        self.order: list[int] = []
        self.far: dict[tuple[int, ...], tuple[FarReads, Reads | None]] = {}  # of this round

    @property
    def nbytes(self) -> int:
        """Bytes of the drafter's own cache, the same for every length of context."""
        return self.window.nbytes

    def join(self, rows: Sequence[Row]) -> None:
        """Nothing: a row's window follows its text."""

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.window.forget(row.slot)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row], trees: Sequence[TokenTree]) -> list[Tensor]:
        """Logits `[1, V]` after the root of each row's tree, which begins a round."""
        for row in rows:
            nested = self.holder is not self.verifier
            self.holder.sync_to(row, (row.num_final if nested else len(row.tokens)) - 1)
            self.window.follow(row.slot, row.tokens[:-1], self._window_kv)
        self.nodes = {row.slot: _Nodes(self._newest(row)) for row in rows}
        self.staged = None
        self.far = {}
        roots = [[tree.tokens[0]] for tree in trees]
        return list(self._run(rows, roots, [[-1] for _ in rows]))

    def root_slot(self, row: Row) -> int:
        """The slot of the root in `grow`'s numbering."""
        return 0

    @torch.inference_mode()
    def grow(
        self, rows: Sequence[Row], tokens: Sequence[list[int]], parents: Sequence[list[int]]
    ) -> tuple[int, Tensor]:
        """Read more nodes below those of this round."""
        first = max(len(self.nodes[row.slot].tokens) for row in rows)
        width = max(map(len, tokens))
        padded = [[*new, *[0] * (width - len(new))] for new in tokens]
        above = [[*new, *[-1] * (width - len(new))] for new in parents]
        return first, self._run(rows, padded, above)

    def reads(self, sequence: int) -> dict[str, ReadStats]:
        """Nothing: its own window is no view of the target."""
        return {}

    def _run(
        self, rows: Sequence[Row], tokens: list[list[int]], parents: list[list[int]]
    ) -> Tensor:
        """One pass of the block over `n` new nodes a row: logits `[B, n, V]`."""
        sequences, count = [row.slot for row in rows], len(tokens[0])
        before, places, states = [], [], []  # before: -1 where there is no token
        for row, new, above in zip(rows, tokens, parents, strict=True):
            nodes = self.nodes[row.slot]
            known = nodes.tokens + new
            ahead = row.tokens[-2] if len(row.tokens) > 1 else -1  # in front of the root
            before.append([known[p] if p >= 0 else ahead for p in above])
            nodes.extend(new, above)
            depth = nodes.depths()
            places.append([len(row.tokens) - 1 + d for d in depth])
            lag = len(row.tokens) + depth[-count] - nodes.committed
            states.append(self.block.newest(nodes.state, lag))
        where = torch.tensor(places, device=self.target.device)
        positions = where[:, -count:]
        x, x_before = self._embed_both(tokens, before)
        h = self.block.start(x, x_before) + torch.cat(states)
        q, *fresh = self._inputs(x, positions)
        k, v = self._staged(sequences, fresh)
        anc = ancestor_words([self.nodes[i].parents for i in sequences], where.shape[1])
        h = h + self.block.self_output(self._near(q, positions, where, k, v, anc, sequences))
        if any(row.offset for row in rows):  # the target's keys are rotated by more than places
            positions = positions + torch.tensor([[row.offset] for row in rows]).to(positions)
        seen = self._far(self.block.cross_query(h, x, self.rotary, positions), sequences)
        if self.packed is not None:
            return self._logits(self.packed.output(h, seen))
        return self._logits(self.block.finish(h + self.block.cross_output(seen)))

    def _inputs(self, x: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Self-attention's q, k and v."""
        if self.packed is not None:
            return self.packed.inputs(x, positions)
        q = self.block.self_query(x, self.rotary, positions)
        return q, *self.block.window_kv(x, self.rotary, positions)

    def _newest(self, row: Row) -> tuple[Tensor, int]:
        """`[1, 1, S]`: the KV of the last token that the target has cached, and their number."""
        store, layer = self.holder.store, self.block.sizes.kv_layer
        committed = store.length(row.slot)
        for level, row_map in zip(reversed(store.levels), reversed(store.row_maps), strict=True):
            place = int(row_map[row.slot])
            end = int(level.length[place])
            keys, values = level.k[layer], level.v[layer]
            if end and keys is not None and values is not None:
                k, v = (x[place : place + 1, :, end - 1 : end] for x in (keys, values))
                position = torch.tensor([[committed - 1 + row.offset]], device=self.target.device)
                return self.block.state(k, v, self.rotary, position), committed
        sizes = self.block.sizes
        width = sizes.num_kv_heads * (sizes.head_dim + sizes.value_dim)
        return self.head.weight.new_zeros(1, 1, width), 0

    def _near(
        self, q: Tensor, positions: Tensor, places: Tensor, k: Tensor, v: Tensor, anc: Tensor,
        sequences: list[int],
    ) -> Tensor:  # fmt: skip
        """Self-attention over the window and the nodes of the tree: `[B, H, n, D]`."""
        sizes, device, window = self.block.sizes, q.device, self.window
        starts = torch.tensor([window.start[i] for i in sequences], device=device)
        first = positions - (sizes.window - 1) - starts[:, None]
        anc = anc[:, -q.shape[2] :].to(device)
        scale = sizes.head_dim**-0.5
        if self.packed is not None and k.shape[2] <= sizes.window:
            reads = near_reads(sequences, window.length, first.numpy(), k.shape[2], anc)
            o: Tensor = level_attention(q, [(window.k, window.v), (k, v)], reads, scale=scale)
            return o
        rows = torch.tensor(sequences, dtype=torch.int32)
        prefix = prefix_attention(
            q, window.k, window.v, window.length, rows, scale=scale, first=first
        )
        tree = tree_attention(
            q, k, v, anc, scale=scale, window=sizes.window, q_positions=positions,
            k_positions=places,
        )  # fmt: skip
        return merge([prefix, tree])[0].to(q.dtype)

    def _far(self, q: Tensor, sequences: list[int]) -> Tensor:
        """Cross-attention over the target's committed KV of one layer: `[B, H, n, Dv]`."""
        if self.packed is not None:
            key = tuple(sequences)
            if key not in self.far:
                far = self._far_reads(sequences)
                self.far[key] = far, far.reads()
            return attended(q, *self.far[key], self.block.sizes.head_dim**-0.5)
        partials = self._partials(q, sequences)
        if not partials:
            return q.new_zeros(*q.shape[:3], self.block.sizes.value_dim)
        return merge(partials)[0].to(q.dtype)

    def _far_reads(self, sequences: list[int]) -> FarReads:
        """What cross-attention reads in this round, of each row of a level once."""
        layer, store, far = self.block.sizes.kv_layer, self.holder.store, FarReads()
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            keys, values = level.k[layer], level.v[layer]
            if keys is None or values is None:
                continue
            sharing: dict[int, list[int]] = {}
            for b, row in enumerate(row_map[sequences].tolist()):
                sharing.setdefault(row, []).append(b)
            far.levels.append((keys, values))
            for row, members in sharing.items():
                far.add(len(far.levels) - 1, row, 0, int(level.length[row]), members)
        return far

    def _partials(self, q: Tensor, sequences: list[int]) -> list[tuple[Tensor, Tensor]]:
        """The same as a partial of each level."""
        sizes, store = self.block.sizes, self.holder.store
        partials = []
        for level, row_map in zip(store.levels, store.row_maps, strict=True):
            keys, values = level.k[sizes.kv_layer], level.v[sizes.kv_layer]
            read = row_map[sequences]
            if keys is not None and values is not None and bool(level.length[read].any()):
                partials.append(
                    prefix_attention(
                        q, keys, values, level.length, read, scale=sizes.head_dim**-0.5
                    )
                )
        return partials

    def _staged(self, sequences: list[int], fresh: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """k, v of all nodes of this round, for the rows that are still drafting."""
        if self.staged is None:
            self.staged = fresh[0], fresh[1]
        else:
            stay = [self.order.index(i) for i in sequences]
            old = (x[stay] if len(stay) < len(self.order) else x for x in self.staged)
            k, v = (torch.cat(pair, 2) for pair in zip(old, fresh, strict=True))
            self.staged = k, v
        self.order = sequences
        return self.staged

    def _window_kv(self, tokens: list[int], first: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(first, first + len(tokens), device=self.target.device)[None]
        x = self._embed([tokens])
        if self.packed is None:
            return self.block.window_kv(x, self.rotary, positions)
        _, k, v = self.packed.inputs(x, positions)
        return k, v

    def _embed(self, tokens: list[list[int]]) -> Tensor:
        x: Tensor = self.embedding(torch.tensor(tokens, device=self.target.device))
        return x.to(self.head.weight.dtype)

    def _embed_both(
        self, tokens: list[list[int]], before: list[list[int]]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of tokens and of those before them, zeros where that is -1."""
        known = [[max(one, 0) for one in row] for row in before]
        x, ahead = self._embed([*tokens, *known]).split(len(tokens))
        if any(one < 0 for row in before for one in row):
            there = torch.tensor([[float(one >= 0) for one in row] for row in before])
            ahead = ahead * there.to(x)[..., None]
        return x, ahead

    def _logits(self, h: Tensor) -> Tensor:
        scores: Tensor = self.head(h)
        if self.ids is None:
            return scores
        full = scores.new_full((*scores.shape[:2], self.target.vocab_size), -torch.inf)
        full[..., self.ids] = scores
        return full


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
