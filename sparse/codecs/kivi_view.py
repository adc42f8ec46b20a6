"""QuantizedView: a pass that reads every token, in fewer bits (KIVI, arXiv 2402.02750)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.cache.store import Level
from specdec.decoding.options import DraftOptions
from specdec.errors import InvalidArgument
from specdec.forward.forward_pass import AttentionCall, ForwardPass
from specdec.forward.full_view import FullView, sink_partial
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.sparse.codecs.kivi_cache import QuantizedCopy
from specdec.sparse.sequence_places import Layout

BITS, GROUPS = (4, 8), (32, 64, 128)


@dataclass(frozen=True)
class QuantizedView:
    """All committed tokens in `bits` a number, but for the `recent` last ones and an open group.

    Keys are scaled by channel over `group` tokens, values by token over at most `group` channels.
    Staged tokens, and those that a drafter's own level holds, are read as they are, and layers with
    a sliding window read their window as it is. The copy stands beside the store: it costs its own
    memory, and saves reads only.
    """

    name: str = "kivi"
    bits: int = 4
    group: int = 64
    recent: int = 128
    lossless: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InvalidArgument(f"kv_bits={self.bits!r}: give 4 or 8")
        if self.group not in GROUPS:
            raise InvalidArgument(f"kv_group={self.group!r}: give 32, 64 or 128 tokens")

    def attend(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
        if pass_.anc is None or call.window is not None:
            return FullView().attend(pass_, call)
        store, sequences = pass_.store, list(pass_.sequences)
        store.stage(call.layer, sequences, call.k, call.v, pass_.staged)
        committed = len(store.levels) - (1 if store.num_shared else 0)
        partials: list[tuple[Tensor, Tensor]] = []
        copies = [self._copy(level, call.layer) for level in store.levels[:committed]]
        _note(pass_, call.layer, copies)
        for place in range(len(store.levels)):
            copy = copies[place] if place < committed else None  # a draft's own level has none
            partials += self._level(pass_, call, place, copy)
        partials.append(FullView().staged(pass_, call))
        if call.sinks is not None:
            partials.append(sink_partial(call))
        return merge(partials)[0].to(call.q.dtype)

    def _copy(self, level: Level, layer: int) -> QuantizedCopy | None:
        """The copy of a level that has keys, brought up to date."""
        if level.k[layer] is None:
            return None
        copy = QuantizedCopy.of(level, layer, self.bits, self.group)
        copy.update(level, layer, self.recent)
        return copy

    def _level(
        self, pass_: ForwardPass, call: AttentionCall, place: int, copy: QuantizedCopy | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Attention over one level: over what its copy covers, and over what came since."""
        level = pass_.store.levels[place]
        rows = pass_.store.row_maps[place][list(pass_.sequences)]
        keys, values = level.k[call.layer], level.v[call.layer]
        if keys is None or values is None:
            return []
        partials, first = [], None
        covered = torch.zeros_like(level.length)
        if copy is not None:
            covered = copy.covered
            if bool(covered[rows].any()):
                partials.append(
                    quantized_attention(
                        call.q, copy.kv, covered, rows, scale=call.scale, softcap=call.softcap
                    )
                )
                first = covered[rows].long()[:, None].expand(-1, call.q.shape[2])
                first = first.to(call.q.device)
        if bool((level.length > covered)[rows].any()):
            partials.append(
                prefix_attention(
                    call.q,
                    keys,
                    values,
                    level.length,
                    rows,
                    scale=call.scale,
                    softcap=call.softcap,
                    first=first,
                )
            )
        return partials


def _note(pass_: ForwardPass, layer: int, copies: list[QuantizedCopy | None]) -> None:
    """Count what a layer reads of each sequence: covered tokens by the bytes of their copies."""
    for place in Layout.of(pass_, layer).places:
        size = place.total * place.token_bytes
        for row, copy in zip(place.rows, copies, strict=False):
            if copy is not None:
                size -= int(copy.covered[row]) * place.token_bytes
                size += round(int(copy.covered[row]) * copy.token_bytes)
        place.reads.note(place.total, size)


def kivi(target: object, options: DraftOptions) -> QuantizedView:
    """Every key and value in 4 or 8 bits; by default the 128 newest tokens are read as they are."""
    return QuantizedView(
        bits=4 if options.kv_bits is None else options.kv_bits,
        group=64 if options.kv_group is None else options.kv_group,
        recent=128 if options.recent is None else options.recent,
    )
