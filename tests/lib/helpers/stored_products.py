"""Products of stored blocks that two processes can make alike."""

from __future__ import annotations

import numpy as np
import torch

from specdec.kernels.linear.packed_weight import PanelWeight, pack_stored

from helpers.stored_gguf import blocks

# Sums of eight, two and one step in 16 bits, and codes that are looked up.
NAMES = ("Q4_K", "Q6_K", "Q8_0", "IQ4_XS")
HEIGHTS = (1, 8)


def case(name: str, height: int) -> tuple[torch.Tensor, PanelWeight]:
    """Activations `[height, 512]` and a weight of 64 outputs of a GGUF's type."""
    weight = pack_stored(name, blocks(name, 64, 512, np.random.default_rng(0)))
    return torch.randn(height, 512, generator=torch.Generator().manual_seed(1)), weight
