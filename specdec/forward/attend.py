"""attend: the one place where what a view plans becomes attention.

In host memory a pass is one kernel call a layer, over nodes (`host_reads`) or over a part of a
prompt (`chunk_reads`). Where keys lie elsewhere it is a sum of partials, merged by their
log-sum-exp; a static pass has its own way (`static_attend`), which never asks the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.forward.attention_call import AttentionCall
from specdec.forward.chunk_reads import chunk_reads
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.gathered import attend_near
from specdec.forward.host_reads import host_reads, levels_of, note_all, with_entries
from specdec.forward.partials import sink_partial, tree_partial
from specdec.forward.plan import WHOLE, LayerPlan, Partial, RowPlan
from specdec.forward.static_attend import attend_static
from specdec.kernels.attention.chunk_attention import chunk_attention
from specdec.kernels.attention.level_attention import level_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.softmax import causal_softmax


def attend(pass_: ForwardPass, call: AttentionCall) -> Tensor:
    """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`."""
    if pass_.inputs is not None:
        return attend_static(pass_, call)
    pass_.store.stage(call.layer, pass_.sequences, call.k, call.v, pass_.staged)
    is_chunk = pass_.is_chunk
    plan = WHOLE if is_chunk else pass_.view.plan(pass_, call.layer, call.window)
    if plan.select is not None:  # perhaps by the last pass's queries: before this one's are seen
        plan = plan.select(call)
    for observer in pass_.observers:
        observer.see(call, pass_)
    is_near = pass_.on_host(call.layer, call.q.device)
    if is_chunk and is_near:
        return _chunk(pass_, call)
    if is_chunk or plan.extras:
        return _merged(pass_, call, plan)
    has_keys = any(row.keys is not None for row in plan.rows or ())
    if is_near and not has_keys:
        reads = host_reads(pass_, plan, call.layer, call.window)
        levels = with_entries(levels_of(pass_, call.layer), plan.rows)
        return level_attention(
            call.q, levels, reads, scale=call.scale, softcap=call.softcap, sinks=call.sinks
        )
    if plan.rows is None:
        note_all(pass_, call.layer, call.window)
        return _merged(pass_, call, plan)
    rows = [attend_near(pass_, call, plan, b) for b in range(len(plan.rows))]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _chunk(pass_: ForwardPass, call: AttentionCall) -> Tensor:
    """Attention of a part of a prompt, sequence after sequence."""
    levels = levels_of(pass_, call.layer)
    each = [
        chunk_attention(
            call.q[b : b + 1], levels, reads, scale=call.scale, softcap=call.softcap,
            sinks=call.sinks,
        )
        for b, reads in enumerate(chunk_reads(pass_, call.window))
    ]  # fmt: skip
    return each[0] if len(each) == 1 else torch.cat(each)


def _merged(pass_: ForwardPass, call: AttentionCall, plan: LayerPlan) -> Tensor:
    """Attention as a sum of partials: each level, what is staged, and the plan's extras."""
    is_whole = plan.rows is None
    remote = [x for x in pass_.store.levels if is_whole and x.is_remote(call.layer, call.q.device)]
    # A lone token sees itself and all before it: one read, with nothing to mask or merge.
    is_plain = pass_.anc is not None and call.q.shape[2] == 1 and pass_.staged == 0
    is_plain = is_plain and not plan.extras
    late = [level.begin(pass_, call) for level in remote]
    partials = _prefix(pass_, call, plan.rows, include_staged=is_plain)
    if not is_plain:
        partials.append(_staged(pass_, call))
    partials += [extra.attend(call) for extra in plan.extras]
    partials += [found for each in late if (found := each()) is not None]
    if call.sinks is not None:
        partials.append(sink_partial(call))
    return merge(partials)[0].to(call.q.dtype)


def _prefix(
    pass_: ForwardPass,
    call: AttentionCall,
    rows: tuple[RowPlan, ...] | None,
    include_staged: bool,
) -> list[Partial]:
    """A partial for each level that is near: all of it, or what the rows read since."""
    store, sequences, device = pass_.store, list(pass_.sequences), call.q.device
    partials = []
    offset = torch.zeros(len(sequences), dtype=torch.int64)
    for at, (level, row_maps) in enumerate(zip(store.levels, store.row_maps, strict=True)):
        row_map, length = row_maps[sequences], level.lengths_on(device)
        is_last = level is store.levels[-1]
        if is_last and include_staged:
            length = length + 1
        held = level.length[row_map]
        keys, values = level.k[call.layer], level.v[call.layer]
        since = None if rows is None else torch.tensor([row.since[at] for row in rows])
        is_read = bool((held > (0 if since is None else since)).any())
        is_read = is_last and include_staged or is_read
        if is_read and level.is_remote(call.layer, device):
            if since is not None:
                partials.append(_brought(call, level, row_map, since))
            is_read = False
        if keys is not None and values is not None and is_read:
            first = None
            if call.window is not None:
                first = pass_.positions - (call.window - 1) - offset[:, None].to(device)
            elif since is not None and bool(since.any()):
                first = since.to(device)[:, None].expand(-1, call.q.shape[2])
            partials.append(
                prefix_attention(
                    call.q, keys, values, length, row_map,
                    scale=call.scale, softcap=call.softcap, first=first,
                )
            )  # fmt: skip
        offset += held
    return partials


def _brought(call: AttentionCall, level: Level, row_map: Tensor, since: Tensor) -> Partial:
    """The partial over what sequences read of a level that lies elsewhere, from `since: int64[B]`
    on; each row's span is fetched once."""
    keys, values, q = level.k[call.layer], level.v[call.layer], call.q
    assert keys is not None and values is not None
    o = q.new_zeros(*q.shape[:3], values.shape[-1], dtype=torch.promote_types(q.dtype, torch.float))
    lse = o.new_full(q.shape[:3], -torch.inf)
    for row in row_map.unique().tolist():
        members = (row_map == row).nonzero()[:, 0]
        start, end = int(since[members].min()), int(level.length[row])
        if start >= end:
            continue
        k, v = (level.bring(x, call.layer, row, start, end, q.device)[None] for x in (keys, values))
        first = (since[members] - start).to(q.device)[:, None].expand(-1, q.shape[2])
        o[members], lse[members] = prefix_attention(
            q[members], k, v, torch.tensor([end - start], dtype=torch.int32, device=q.device),
            torch.zeros(len(members), dtype=torch.int32), scale=call.scale, softcap=call.softcap,
            first=first,
        )  # fmt: skip
    return o, lse


def _staged(pass_: ForwardPass, call: AttentionCall) -> Partial:
    """The partial over the staged tokens, this call's own included."""
    if pass_.anc is None:
        return causal_softmax(
            call.q, call.k, call.v, scale=call.scale, softcap=call.softcap, window=call.window,
            blocks=pass_.blocks,
        )  # fmt: skip
    k, v = call.k, call.v
    if pass_.staged:
        count = pass_.staged + k.shape[2]
        k, v = pass_.store.staged(call.layer, pass_.sequences, count)
    return tree_partial(pass_, call, k, v)
