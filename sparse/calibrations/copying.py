"""copying: heads that find earlier copies of a token, and heads that find what followed them."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.attention_probe import AttentionProbe, SeenLayer, every
from specdec.sparse.calibrations.calibration import Numbers

REPEATS = 4  # RazorAttention's
TOKENS = 2500  # of one of them
STRIDE = 8  # every so manieth query is asked: the mean of thousands needs no more


@torch.inference_mode()
def copying(target: Target, tokens: int = TOKENS, seed: int = 0) -> list[Numbers | None]:
    """Each query head's `echo` and `induction`, on random tokens that are repeated.

    RazorAttention (arXiv 2407.15891, section 3.2): random tokens, four times over. The echo of a
    query is its attention to earlier copies of its own token, its induction that to the tokens
    which came right behind those; a head's numbers are means over the queries of the repeats. Where
    the model takes fewer than four times `tokens`, they are fewer.
    """
    period = min(tokens, (target.max_positions - 1) // REPEATS)
    drawn = torch.randint(
        target.vocab_size, (period,), generator=torch.Generator().manual_seed(seed)
    )
    text = [int(drawn[0]), *drawn.tolist() * REPEATS]  # some token first, that nothing copies
    sums: dict[int, tuple[Tensor, Tensor, int]] = {}

    def take(seen: SeenLayer) -> None:
        echo, induction = (seen.attention.new_zeros(seen.attention.shape[:2]) for _ in range(2))
        for i, position in enumerate(seen.positions.tolist()):
            copies = torch.arange(position - period, 0, -period, device=seen.q.device)
            echo += seen.attention[:, :, i, copies].sum(-1)
            induction += seen.attention[:, :, i, copies + 1].sum(-1)
        before = sums.get(seen.layer, (0, 0, 0))
        count = before[2] + len(seen.positions)
        sums[seen.layer] = before[0] + echo, before[1] + induction, count

    def repeated(positions: Tensor) -> Tensor:
        return every(STRIDE)(positions) & (positions > period)

    store = target.new_store(1, len(text))
    target.prefill(store, FullView(), 0, text, [AttentionProbe(repeated, take)])
    return [_numbers(sums.get(layer)) for layer in range(target.num_layers)]


def _numbers(sums: tuple[Tensor, Tensor, int] | None) -> Numbers | None:
    if sums is None:
        return None
    echo, induction, count = sums
    return {
        "echo": (echo / count).flatten().tolist(),
        "induction": (induction / count).flatten().tolist(),
    }
