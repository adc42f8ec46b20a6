"""Gate: which branch an image is read by, for the question that is asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.drafts.specvlm.image import ImageSizes


class Gate(nn.Module):
    """Question-aware choice of a branch (SpecVLM, arXiv 2509.11815, its default "select" mode).

    logits = W_2 silu(W_1 [LN(q); LN(i)] + b_1) + b_2, one for each branch, where q and i are the
    means of the target's cached values over the question's tokens and over the image's.
    Inference takes the argmax. Training relaxes it (Gumbel-softmax, Jang et al. 2017): an entry of
    branch b has log w_b added to its log-weight, w = softmax((logits + Gumbel noise) / t), t a
    temperature that falls.

    Departures: the paper's gate reads hidden states of the question and, as far as it says, not the
    image; ours has what is cached anyway. Values have no place, so it works where keys are turned
    in three dimensions. Question: what the prompt holds behind its last image.
    """

    def __init__(self, sizes: ImageSizes, branches: int) -> None:
        super().__init__()
        width = 2 * sizes.num_kv_heads * sizes.value_dim
        self.inner = nn.Linear(width, sizes.gate_size)
        self.outer = nn.Linear(sizes.gate_size, branches)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        """Logits `[B, branches]`, of means `question` and `image`, `[B, Hkv * Dv]` each."""
        x = torch.cat([nn.functional.layer_norm(x, x.shape[-1:]) for x in (question, image)], -1)
        logits: Tensor = self.outer(nn.functional.silu(self.inner(x.to(self.inner.weight.dtype))))
        return logits


def mean_value(v: Tensor) -> Tensor:
    """The mean over tokens of cached values `[B, Hkv, n, Dv]`, `[B, Hkv * Dv]`; 0 of no tokens."""
    return v.sum(2).flatten(1) / max(1, v.shape[2])
