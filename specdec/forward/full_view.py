"""FullView: a pass that reads every key, the target's own law."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from specdec.forward.device_reads import DeviceReads
from specdec.forward.forward_pass import AttentionCall, ForwardPass, ReadAhead
from specdec.forward.host_reads import full_reads
from specdec.kernels.attention.level_attention import level_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.softmax import causal_softmax
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.offload.stream import Stream


class FullView:
    """All committed keys of every level, and the staged nodes through their ancestor mask."""

    name = "full"
    lossless = True

    def ready(self, *_: object) -> Hashable | None:
        """Nothing to make ready for placed passes: they read the store's levels alone."""
        return self.name

    def attend(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
        if pass_.inputs is not None:
            return self._placed(pass_, call)
        pass_.store.stage(call.layer, pass_.sequences, call.k, call.v, pass_.staged)
        if pass_.recorder is not None:
            _record(pass_, call)
        device = call.q.device
        remote = any(level.is_remote(call.layer, device) for level in pass_.store.levels)
        if pass_.anc is not None and device.type == "cpu" and not remote:
            return level_attention(
                call.q,
                levels_of(pass_, call.layer),
                full_reads(pass_, call.window),
                scale=call.scale,
                softcap=call.softcap,
                sinks=call.sinks,
            )
        # A lone token sees itself and all before it: one read, with nothing to mask or merge.
        is_plain = pass_.anc is not None and call.q.shape[2] == 1 and pass_.staged == 0
        late = [Stream.of(pass_, device).begin(call)] if remote else []
        partials = self._prefix(pass_, call, include_staged=is_plain)
        if not is_plain:
            partials.append(self.staged(pass_, call))
        partials += [found for each in late if (found := each()) is not None]
        if call.sinks is not None:
            partials.append(sink_partial(call))
        return merge(partials)[0].to(call.q.dtype)

    def reads_ahead(
        self, pass_: ForwardPass, layers: Sequence[int], window: int | None
    ) -> list[ReadAhead] | None:
        """What each of these layers reads; None where it is elsewhere, or queries are noted."""
        if not may_read_ahead(pass_):
            return None
        return [(full_reads(pass_, window), None)] * len(layers)

    def _placed(self, pass_: ForwardPass, call: AttentionCall) -> Tensor:
        """The same for a placed pass. An empty level is read, too: it gives lse = -inf."""
        reads = DeviceReads.of(pass_, call.q.device)
        reads.stage(call)
        if pass_.recorder is not None:
            _record(pass_, call)
        partials = [
            prefix_attention(
                call.q,
                keys,
                values,
                reads.read(place),
                reads.row_maps[place],
                scale=call.scale,
                softcap=call.softcap,
                first=reads.first(call.window, place),
            )
            for place, level in enumerate(reads.levels)
            if (keys := level.k[call.layer]) is not None
            and (values := level.v[call.layer]) is not None
        ]
        if not reads.is_plain:
            partials.append(placed_tree(pass_, call, reads))
        if call.sinks is not None:
            partials.append(sink_partial(call))
        return merge(partials)[0].to(call.q.dtype)

    def _prefix(
        self, pass_: ForwardPass, call: AttentionCall, include_staged: bool
    ) -> list[tuple[Tensor, Tensor]]:
        store, sequences = pass_.store, list(pass_.sequences)
        partials = []
        offset = torch.zeros(len(sequences), dtype=torch.int64)
        for level, rows in zip(store.levels, store.row_maps, strict=True):
            row_map, length = rows[sequences], level.lengths_on(call.q.device)
            is_last = level is store.levels[-1]
            if is_last and include_staged:
                length = length + 1
            keys, values = level.k[call.layer], level.v[call.layer]
            is_read = is_last and include_staged or bool(level.length[row_map].any())
            is_read = is_read and not level.is_remote(call.layer, call.q.device)
            if keys is not None and values is not None and is_read:
                first = None
                if call.window is not None:
                    first = pass_.positions - (call.window - 1) - offset[:, None].to(call.q.device)
                partials.append(
                    prefix_attention(
                        call.q,
                        keys,
                        values,
                        length,
                        row_map,
                        scale=call.scale,
                        softcap=call.softcap,
                        first=first,
                    )
                )
            offset += level.length[row_map]
        return partials

    def staged(self, pass_: ForwardPass, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """The partial (o, lse) over the staged tokens, this call's own included."""
        if pass_.anc is None:
            return causal_softmax(
                call.q,
                call.k,
                call.v,
                scale=call.scale,
                softcap=call.softcap,
                window=call.window,
            )
        k, v = call.k, call.v
        if pass_.staged:
            count = pass_.staged + k.shape[2]
            k, v = pass_.store.staged(call.layer, pass_.sequences, count)
        return _tree(pass_, call, k, v)


def may_read_ahead(pass_: ForwardPass) -> bool:
    """Whether a pass over nodes reads host memory alone, and nobody keeps its queries."""
    if pass_.anc is None or pass_.inputs is not None or pass_.store.places:
        return False
    noted = pass_.recorder is not None and pass_.recorder.verified and pass_.records
    return pass_.anc.device.type == "cpu" and not noted


def placed_tree(
    pass_: ForwardPass, call: AttentionCall, reads: DeviceReads
) -> tuple[Tensor, Tensor]:
    """The partial (o, lse) of a placed pass over what is staged, this call's own included."""
    return _tree(pass_, call, *reads.staged(call))


def _tree(pass_: ForwardPass, call: AttentionCall, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The partial (o, lse) over staged `k, v[B, Hkv, S, D]`, as the ancestor mask has it."""
    assert pass_.anc is not None
    return tree_attention(
        call.q,
        k,
        v,
        pass_.anc,
        scale=call.scale,
        softcap=call.softcap,
        window=call.window,
        q_positions=pass_.positions,
        k_positions=pass_.staged_positions,
    )


def levels_of(pass_: ForwardPass, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of all levels in one layer; an empty level lends the last one's."""
    levels = pass_.store.levels
    last = levels[-1]
    pairs = [
        (x.k[layer], x.v[layer]) if x.k[layer] is not None else (last.k[layer], last.v[layer])
        for x in levels
    ]
    return pairs  # type: ignore[return-value]


def full(target: object, options: object) -> FullView:
    """The full view of any model."""
    return FullView()


def sink_partial(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Attention sinks as a partial: weight in the softmax, but no value."""
    assert call.sinks is not None
    batch, heads, nodes, _ = call.q.shape
    wide = torch.float64 if call.q.dtype == torch.float64 else torch.float32
    o = call.q.new_zeros(batch, heads, nodes, call.v.shape[-1], dtype=wide)
    return o, call.sinks.to(wide)[None, :, None].expand(batch, heads, nodes)


def _record(pass_: ForwardPass, call: AttentionCall) -> None:
    """Leave the queries to those who choose what a draft reads."""
    assert pass_.recorder is not None
    for q, sequence in zip(call.q, pass_.sequences, strict=True):
        if pass_.anc is None:
            pass_.recorder.note_prompt(call.layer, sequence, q)
        elif pass_.records:
            pass_.recorder.note_pass(call.layer, sequence, q)
