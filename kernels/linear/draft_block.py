"""draft_block: one step of a block that drafts, from embeddings to scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.attention.level_attention import Reads, level_attention
from specdec.kernels.cache.stage_kv import stage_kv
from specdec.kernels.dispatch import dispatched
from specdec.kernels.linear.decoder_block import (
    AttentionInputs,
    LayerOutput,
    Linear,
    Norm,
    attention_inputs,
    layer_output,
    rotated,
)
from specdec.kernels.linear.decoder_run import Staging


@dataclass(frozen=True, eq=False)
class DraftBlock:
    """A layer with two attentions, which begins with sums of linear readings.

    token, before: of the embedding of a token and of the one in front of it. states: of a state
    `[S]`, all of one shape and format, one of them for each sequence. inputs: of self-attention,
    which reads embeddings alone; self_o: its output. cross_q: queries of cross-attention, from what
    there is by then and, by cross_token, from self-attention's normed input. output: all behind
    cross-attention. head: scores.
    """

    token: Linear
    before: Linear
    states: tuple[Linear, ...]
    inputs: AttentionInputs
    self_o: Linear
    cross_norm: Norm
    cross_q: Linear
    cross_token: Linear | None
    cross_q_norm: Norm | None
    output: LayerOutput
    head: Linear


@dataclass(frozen=True)
class Attended:
    """What an attention reads: levels (k, v) `[rows, Hkv, capacity, D]`, and of these what."""

    levels: Sequence[tuple[Tensor, Tensor]]
    reads: Reads


@dispatched
def draft_block(
    x: Tensor,
    before: Tensor,
    state: Tensor,
    block: DraftBlock,
    lags: Sequence[int],
    own: tuple[Tensor, Tensor],
    cross: tuple[Tensor, Tensor],
    near: Attended,
    far: Attended,
    staging: Staging,
) -> Tensor:
    """Scores `[B, N, outputs of the head]` of nodes with embeddings `x[B, N, hidden]`, and
    `before[B, N, hidden]` in front of them; their keys and values are staged in the last level of
    `near`, in place.

    state: `[B, S]`, read by `block.states[lags[b]]`. own, cross: cos and sin `[B, N, rotary]` of
    the two attentions, of which `near` and `far` say what they read.
    """
    newest = [block.states[lag](state[b : b + 1]) for b, lag in enumerate(lags)]
    h = block.token(x) + block.before(before) + torch.stack(newest)
    q, k, v = attention_inputs.plain(x, block.inputs, *own)
    stage_kv.plain(*near.levels[-1], k, v, staging.length, staging.rows, at=staging.at)
    h = h + block.self_o(_attended(q, near).transpose(1, 2).flatten(2))
    asked = block.cross_q(block.cross_norm(h))
    if block.cross_token is not None:
        asked = asked + block.cross_token(block.inputs.norm(x))
    asked = asked.unflatten(-1, (-1, q.shape[-1])).transpose(1, 2)
    if block.cross_q_norm is not None:
        asked = block.cross_q_norm(asked)
    return block.head(layer_output.plain(h, _attended(rotated(asked, *cross), far), block.output))


def _attended(q: Tensor, what: Attended) -> Tensor:
    o: Tensor = level_attention.plain(q, what.levels, what.reads, scale=q.shape[-1] ** -0.5)
    return o
