"""semantic_heads: heads that look at a needle while it is said, and layers that need much."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.attention_probe import AttentionProbe, SeenLayer
from specdec.sparse.calibrations.calibration import Numbers
from specdec.sparse.calibrations.passkeys import Passkeys
from specdec.sparse.importances.semantic_votes import votes
from specdec.sparse.maths.output_projection import output_projection

HEADS = 4  # of a layer: CompressKV's
WINDOW = 8
SMALL = 128  # tokens: the smallest of the paper's budgets


@torch.inference_mode()
def semantic_heads(target: Target, text: Sequence[int], length: int = 2048) -> list[Numbers | None]:
    """Each query head's `needle`, and each layer's `error`.

    CompressKV (arXiv 2508.02401). needle[h]: the attention mass on all of a needle, mean over the
    queries which foretell a token of it rightly; the paper's are answers to needle tests of 1,000
    to 50,000 tokens that succeed, ours the model's own repetition of random passkeys in a text.
    error: |o_full - o_small|_F / |o_full|_F of a layer's output over these queries, where it reads
    the `SMALL` tokens that its four best heads vote for, and the voters.
    """
    keys = Passkeys.hidden_in(text, target.vocab_size, min(length, target.max_positions))
    first = keys.first_question
    questions = torch.tensor([keys.tokens[first:]])
    needles: dict[int, Tensor] = {}
    layers: dict[int, SeenLayer] = {}
    window: dict[int, Tensor] = {}

    def vote(seen: SeenLayer) -> None:
        window[seen.layer] = seen.attention

    def answer(seen: SeenLayer) -> None:
        layers[seen.layer] = seen

    def last(positions: Tensor) -> Tensor:
        return (positions >= first - WINDOW) & (positions < first)

    store = target.new_store(1, len(keys.tokens))
    target.prefill(store, FullView(), 0, keys.tokens[:first], [AttentionProbe(last, vote)])
    where = torch.arange(first, len(keys.tokens), device=target.device)[None]
    everything = AttentionProbe(lambda positions: positions >= 0, answer)
    pass_ = ForwardPass(store, FullView(), [0], where, observers=[everything])
    logits = target.forward(questions.tolist(), pass_)[0]
    right = logits[:-1].argmax(-1).cpu() == questions[0, 1:]
    out: list[Numbers | None] = [None] * target.num_layers
    for n, seen in layers.items():
        mass = _on_needles(seen, keys, right)
        needles[n] = mass
        best = mass.topk(min(HEADS, len(mass))).indices
        out[n] = {"needle": mass.tolist(), "error": [_error(target, seen, window[n], best)]}
    return out


def _on_needles(seen: SeenLayer, keys: Passkeys, right: Tensor) -> Tensor:
    """The mean mass on the needle that is being said, of the queries that foretell it rightly, or
    of all where none does."""
    start = int(seen.positions[0])
    total = seen.attention.new_zeros(seen.attention.shape[:2])
    every, count = total.clone(), 0
    for (low, high), answer in zip(keys.spans, keys.answers, strict=True):
        for position in answer:
            mass = seen.attention[:, :, position - start, low:high].sum(-1)
            every += mass
            if bool(right[position - start]):
                total, count = total + mass, count + 1
    number = sum(len(answer) for answer in keys.answers)
    return (total / count if count else every / number).flatten()


def _error(target: Target, seen: SeenLayer, window: Tensor, heads: Tensor) -> float:
    """How far a layer's output is off where it reads little of what came before the questions."""
    before = window.shape[-1]
    score = votes(window, heads)
    kept = torch.ones(seen.k.shape[1], dtype=torch.bool, device=score.device)
    kept[: before - WINDOW] = False
    kept[score[: before - WINDOW].topk(min(SMALL, before - WINDOW)).indices] = True
    full, small = seen.output(), seen.output(kept)
    count, group, _, dim = full.shape
    out = output_projection(target, seen.layer, count * group, dim, "compresskv").to(full)
    out = out.unflatten(0, (count, group))
    change = torch.einsum("hgnd,hgdc->nc", full - small, out).norm()
    return float(change / torch.einsum("hgnd,hgdc->nc", full, out).norm().clamp_min(1e-30))
