"""Compressor: all branches and the gate, as one module with what they have learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.drafts.longspec.checkpoint import Checkpoint
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.branches.base import Branch
from specdec.drafts.specvlm.branches.convolution import Convolution
from specdec.drafts.specvlm.branches.pool import Pool
from specdec.drafts.specvlm.branches.prune import Prune
from specdec.drafts.specvlm.branches.resampler import Resampler
from specdec.drafts.specvlm.branches.text import Text
from specdec.drafts.specvlm.gate import Gate, mean_value
from specdec.drafts.specvlm.image import Entries, Image, ImageSizes

BRANCHES: dict[str, type[Branch]] = {
    "prune": Prune, "pool": Pool, "convolution": Convolution, "resampler": Resampler, "text": Text,
}  # fmt: skip
GATE, AUTO = "gate", "auto"
PART = "images"  # its name in a checkpoint


class Compressor(nn.Module):
    """Makes images small, by a branch that is named or that the gate chooses."""

    def __init__(self, sizes: ImageSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.branches = nn.ModuleDict({name: kind(sizes) for name, kind in BRANCHES.items()})
        self.gate = Gate(sizes, len(BRANCHES))

    def forward(self, name: str, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """Entries of images by a branch, at most `tokens` for each."""
        entries: Entries = self.branches[name](image, tokens, rotary)
        return entries

    def logits(self, question: Tensor, image: Image) -> Tensor:
        """The gate's, `[B, branches]`; -inf for branches that these images cannot go through.

        question: the mean of its tokens' cached values, `[B, Hkv * Dv]`.
        """
        found: Tensor = self.gate(question, mean_value(image.v))
        if image.positions is None:
            barred = torch.tensor([kind.turns for kind in BRANCHES.values()])
            found = found.masked_fill(barred.to(found.device), -torch.inf)
        return found

    def choose(self, question: Tensor, image: Image) -> list[str]:
        """The branch that the gate chooses for each of `B` images."""
        names = list(BRANCHES)
        return [names[i] for i in self.logits(question, image).argmax(-1).tolist()]


def compressor_of(checkpoint: Checkpoint) -> Compressor | None:
    """The compressor of a checkpoint, in float32; None where its block was not trained on images.

    Raises RuntimeError for weights that are not of its sizes.
    """
    sizes = checkpoint.parts.get(PART)
    if sizes is None:
        return None
    made = Compressor(ImageSizes(**sizes))
    made.load_state_dict({k: x.float() for k, x in checkpoint.weights_of(PART).items()})
    return made.requires_grad_(False).eval()
