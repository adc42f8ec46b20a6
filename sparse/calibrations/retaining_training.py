"""retaining_training: has retaining heads learn what later queries look at (Locret)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.progress import progress_bar
from specdec.sparse.calibrations.attention_probe import AttentionProbe, SeenLayer
from specdec.sparse.calibrations.retaining_heads import RetainingHeads, features, retained
from specdec.sparse.fingerprint import fingerprint
from specdec.sparse.maths.key_rotation import KeyRotation

HIDDEN = 32  # Locret has 1,024 for models of 3 to 8 billion weights
ANSWER = 128  # last tokens of a piece, whose queries say what mattered
SMOOTH = 0.0025  # Locret's weight of neighbours' differences
RATE, BETAS, CLIP = 5e-4, (0.9, 0.95), 0.5  # Locret's
FASTER = 10  # than that: these heads are a thirtieth as wide and see unit features
STEPS = 600
BATCH = 512  # neighbouring tokens a step


def train(
    target: Target, text: Sequence[int], name: str, pieces: int = 8, length: int = 1024
) -> RetainingHeads:
    """Retaining heads for a model, trained on `pieces` of a text of `length` tokens each.

    As Locret (arXiv 2410.01805, section 3.2): the model is frozen; the label of token t and KV head
    h is the greatest logit q.k / sqrt(D) that a query of the answer gives it, over the queries and
    the group; loss is smooth L1 plus 0.0025 times the squared difference of neighbours; AdamW. The
    answer is the piece's own end, not that of a question: an instruction set is not at hand. Layers
    are independent of each other, so what goes into them is gathered once. Labels and features are
    scaled to unit size and the scale folded into the weights: Locret warms up for 2,000 steps
    instead.
    """
    length = min(length, target.max_positions)
    pieces = max(1, min(pieces, len(text) // length))
    parts = [text[i * length : (i + 1) * length] for i in range(pieces)]
    gathered = [_gather(target, list(part)) for part in parts]
    layers: list[tuple[Tensor, Tensor] | None] = []
    with progress_bar("Training retaining heads") as progress:
        for n in range(target.num_layers):
            if n in gathered[0]:
                layers.append(fit([piece[n] for piece in gathered]))
            else:
                layers.append(None)
            progress(n + 1, target.num_layers)
    return RetainingHeads(fingerprint(target), name, tuple(layers))


@torch.inference_mode()
def _gather(target: Target, tokens: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Features `[n, F]` and labels `[n, Hkv]` of each layer, of all tokens before the answer."""
    rotation = KeyRotation.of(target, "locret")
    first = len(tokens) - min(ANSWER, len(tokens) // 2)
    parts: dict[int, list[Tensor]] = {}
    labels: dict[int, Tensor] = {}

    def take(seen: SeenLayer) -> None:
        before = seen.positions < first
        q = seen.q.flatten(0, 1)
        at, k = seen.positions, seen.k[:, seen.positions]
        if rotation is not None:
            q, k = (rotation.turn_back(x, at, seen.layer) for x in (q, k))
        x = features(q, k, seen.v[:, seen.positions])
        parts.setdefault(seen.layer, []).append(x[before].float())
        if not bool(before.all()):
            logits = seen.q[:, :, ~before] @ seen.k[:, None, :first].mT * seen.scale
            best = logits.amax(dim=(1, 2)).mT.float()
            known = labels.get(seen.layer)
            labels[seen.layer] = best if known is None else known.maximum(best)

    store = target.new_store(1, len(tokens))
    everything = AttentionProbe(lambda positions: positions >= 0, take)
    target.prefill(store, FullView(), 0, tokens, [everything])
    return {n: (torch.cat(x).clone(), labels[n].clone()) for n, x in parts.items()}


def fit(pieces: Sequence[tuple[Tensor, Tensor]], seed: int = 0) -> tuple[Tensor, Tensor]:
    """W1 and W2 of one layer."""
    x = torch.stack([piece[0] for piece in pieces])
    y = torch.stack([piece[1] for piece in pieces])
    spread = x.flatten(0, 1).std(dim=0).clamp_min(1e-6)
    unit = y.std().clamp_min(1e-6)
    x, y = x / spread, y / unit
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        w1 = torch.randn(x.shape[-1], HIDDEN, generator=draw).to(x) * x.shape[-1] ** -0.5
        w2 = torch.randn(HIDDEN, y.shape[-1], generator=draw).to(x) * HIDDEN**-0.5
        weights = [w1.requires_grad_(), w2.requires_grad_()]
        optimiser = torch.optim.AdamW(weights, lr=FASTER * RATE, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            piece = int(torch.randint(len(x), (1,), generator=draw))
            room = max(1, x.shape[1] - BATCH)
            start = int(torch.randint(room, (1,), generator=draw))
            part = slice(start, start + BATCH)
            score = retained(x[piece, part], w1, w2)
            loss = smooth_l1_loss(score, y[piece, part])
            loss = loss + SMOOTH * (score[1:] - score[:-1]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(weights, CLIP)
            optimiser.step()
            schedule.step()
    return (w1 / spread[:, None]).detach(), (w2 * unit).detach()
