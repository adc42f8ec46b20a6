"""Optimizer: Muon for a block's matrices, AdamW for its vectors, and their common schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from specdec.drafts.longspec.training.settings import Settings


class BlockOptimizer:
    """Both optimizers of a block as one.

    Muon (Jordan et al., 2024) needs far fewer steps than AdamW on matrices this size; its updates
    are scaled to the root mean square of AdamW's, so that one schedule serves both.
    """

    def __init__(self, block: nn.Module, settings: Settings) -> None:
        self.settings = settings
        self.parameters = [p for p in block.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.dim() == 2]
        vectors = [p for p in self.parameters if p.dim() != 2]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=settings.rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                vectors, lr=settings.vector_rate, betas=(0.9, 0.95), weight_decay=0.0
            ),
        ]

    def step(self, number: int) -> None:
        """Update the block from its gradients, in place, and clear them; `number` is from 0."""
        factor = schedule(number, self.settings)
        rates = (self.settings.rate, self.settings.vector_rate)
        nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for part, rate in zip(self.parts, rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All tensors to go on from, by name."""
        return {
            f"{part}.{number}.{name}": x
            for part, optimizer in enumerate(self.parts)
            for number, entry in optimizer.state_dict()["state"].items()
            for name, x in entry.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        for part, optimizer in enumerate(self.parts):
            entries: dict[int, dict[str, Tensor]] = {}
            for key, x in state.items():
                owner, number, name = key.split(".", 2)
                if int(owner) == part:
                    entries.setdefault(int(number), {})[name] = x
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": entries, "param_groups": groups})


def schedule(number: int, settings: Settings) -> float:
    """Share of the learning rate at a step: a linear rise, then a cosine to a twentieth."""
    rise = max(1, int(settings.warmup * settings.steps))
    if number < rise:
        return (number + 1) / rise
    done = (number - rise) / max(1, settings.steps - rise)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
