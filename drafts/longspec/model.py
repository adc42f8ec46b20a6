"""LongSpecModel: runs a LongSpec block over trees of draft tokens, and follows the rows' text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from specdec.cache.store import KVStore
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.block import LongSpecBlock
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.longspec.window import Window
from specdec.errors import InvalidArgument
from specdec.forward.view_reads import ReadStats
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

    head: V' rows of the LM head; ids: the token of each, or None for all of them.
    Its own memory is a window of keys and values per row, and the nodes of the tree in hand.
    """

    def __init__(
        self,
        target: Target,
        block: LongSpecBlock,
        rotary: Rotary,
        head: nn.Linear,
        ids: Tensor | None,
        verifier: CachedModel,
    ) -> None:
        self.target, self.block, self.rotary = target, block, rotary
        self.head, self.ids = head, ids
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
        before, places, states = [], [], []
        for row, new, above in zip(rows, tokens, parents, strict=True):
            nodes = self.nodes[row.slot]
            known = nodes.tokens + new
            ahead = row.tokens[-2:-1]  # in front of the root; nothing in a text of one token
            before.append([[known[p]] if p >= 0 else ahead for p in above])
            nodes.extend(new, above)
            depth = nodes.depths()
            places.append([len(row.tokens) - 1 + d for d in depth])
            lag = len(row.tokens) + depth[-count] - nodes.committed
            states.append(self.block.newest(nodes.state, lag))
        where = torch.tensor(places, device=self.target.device)
        positions = where[:, -count:]
        x = self._embed(tokens)
        h = self.block.start(x, self._embed_some(before)) + torch.cat(states)
        k, v = self._staged(sequences, self.block.window_kv(x, self.rotary, positions))
        anc = ancestor_words([self.nodes[i].parents for i in sequences], where.shape[1])
        h = h + self.block.self_output(self._near(x, positions, where, k, v, anc, sequences))
        if any(row.offset for row in rows):  # the target's keys are rotated by more than places
            positions = positions + torch.tensor([[row.offset] for row in rows]).to(positions)
        h = h + self.block.cross_output(self._far(h, x, positions, sequences))
        return self._logits(self.block.finish(h))

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
        self, x: Tensor, positions: Tensor, places: Tensor, k: Tensor, v: Tensor, anc: Tensor,
        sequences: list[int],
    ) -> Tensor:  # fmt: skip
        """Self-attention over the window and the nodes of the tree: `[B, H, n, D]`."""
        sizes, device = self.block.sizes, x.device
        q = self.block.self_query(x, self.rotary, positions)
        starts = torch.tensor([self.window.start[i] for i in sequences], device=device)
        prefix = prefix_attention(
            q,
            self.window.k,
            self.window.v,
            self.window.length,
            torch.tensor(sequences, dtype=torch.int32),
            scale=sizes.head_dim**-0.5,
            first=positions - (sizes.window - 1) - starts[:, None],
        )
        tree = tree_attention(
            q,
            k,
            v,
            anc[:, -q.shape[2] :].to(device),
            scale=sizes.head_dim**-0.5,
            window=sizes.window,
            q_positions=positions,
            k_positions=places,
        )
        return merge([prefix, tree])[0].to(q.dtype)

    def _far(self, h: Tensor, x: Tensor, positions: Tensor, sequences: list[int]) -> Tensor:
        """Cross-attention over the target's committed KV of one layer: `[B, H, n, Dv]`."""
        sizes, store = self.block.sizes, self.holder.store
        q = self.block.cross_query(h, x, self.rotary, positions)
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
        if not partials:
            return q.new_zeros(*q.shape[:3], sizes.value_dim)
        return merge(partials)[0].to(q.dtype)

    def _staged(self, sequences: list[int], fresh: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """k, v of all nodes of this round, for the rows that are still drafting."""
        if self.staged is None:
            self.staged = fresh
        else:
            stay = [self.order.index(i) for i in sequences]
            old = (x[stay] if len(stay) < len(self.order) else x for x in self.staged)
            k, v = (torch.cat(pair, 2) for pair in zip(old, fresh, strict=True))
            self.staged = k, v
        self.order = sequences
        return self.staged

    def _window_kv(self, tokens: list[int], first: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(first, first + len(tokens), device=self.target.device)[None]
        return self.block.window_kv(self._embed([tokens]), self.rotary, positions)

    def _embed(self, tokens: list[list[int]]) -> Tensor:
        x: Tensor = self.embedding(torch.tensor(tokens, device=self.target.device))
        return x.to(self.head.weight.dtype)

    def _embed_some(self, tokens: list[list[list[int]]]) -> Tensor:
        """Embeddings of one token or none (then zeros) for each place."""
        ids = [[one[0] if one else 0 for one in row] for row in tokens]
        there = torch.tensor([[float(bool(one)) for one in row] for row in tokens])
        x = self._embed(ids)
        return x * there.to(x)[..., None]

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
