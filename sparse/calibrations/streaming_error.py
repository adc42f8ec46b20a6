"""streaming_error: what answers lose where a head sees the first and the last tokens only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.attention_probe import AttentionProbe, SeenLayer
from specdec.sparse.calibrations.calibration import Numbers
from specdec.sparse.calibrations.passkeys import Passkeys
from specdec.sparse.maths.output_projection import output_projection

SINK, RECENT = 128, 256  # DuoAttention's, while it looks for heads


@torch.inference_mode()
def streaming_error(
    target: Target, text: Sequence[int], length: int = 2048, sink: int = SINK, recent: int = RECENT
) -> list[Numbers | None]:
    """Each KV head's `gate`: how much of its layer's output it changes by streaming.

    gate[h] = |sum over g of (o_full - o_stream)[h, g] W_o[h, g]|_F / |o_full W_o|_F over the
    queries that foretell the answers of ten passkeys hidden in a text. DuoAttention (arXiv
    2410.10819) trains a gate between both outputs of each head on such texts, by the distance of
    the last hidden states plus 0.05 |gate|, in 2,000 steps of gradient descent; this is the same
    distance at the layer's own output, for one head at a time, which needs one reading and no
    gradients. Files of trained gates can be read as well. sink and recent are less where the text
    is too short for both.
    """
    length = min(length, target.max_positions)
    keys = Passkeys.hidden_in(text, target.vocab_size, length)
    asked = torch.tensor([p for answer in keys.answers for p in answer])
    sink, recent = min(sink, length // 8), min(recent, length // 4)
    lost: dict[int, Tensor] = {}
    whole: dict[int, Tensor] = {}

    def take(seen: SeenLayer) -> None:
        at = torch.arange(seen.k.shape[1], device=seen.k.device)
        near = (at < sink) | (at > (seen.positions[:, None] - recent))
        full, short = seen.output(), seen.output(near)
        heads, group, _, dim = full.shape
        out = output_projection(target, seen.layer, heads * group, dim, "duo").to(full)
        out = out.unflatten(0, (heads, group))
        change = torch.einsum("hgnd,hgdc->hnc", full - short, out).square().sum(dim=(1, 2))
        total = torch.einsum("hgnd,hgdc->nc", full, out).square().sum()
        lost[seen.layer] = lost.get(seen.layer, 0) + change
        whole[seen.layer] = whole.get(seen.layer, 0) + total

    def wanted(positions: Tensor) -> Tensor:
        return torch.isin(positions, asked.to(positions.device))

    store = target.new_store(1, len(keys.tokens))
    target.prefill(store, FullView(), 0, keys.tokens, [AttentionProbe(wanted, take)])
    return [
        {"gate": (lost[n] / whole[n].clamp_min(1e-30)).sqrt().tolist()} if n in lost else None
        for n in range(target.num_layers)
    ]
