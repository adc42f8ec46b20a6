"""Resampler: learned queries that look at an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.branches.base import Branch
from specdec.drafts.specvlm.image import Entries, Image, ImageSizes, weights


class Resampler(Branch):
    """One cross-attention layer with m learned queries (SpecVLM, arXiv 2509.11815; there m = 2).

    x_t: key (turned back to no place) and value of token t, width C, and its embedding (of unit
    variance), width E; LN has no weights.
    y = W_o concat_h(softmax(Q_h (W_k LN(x))_h^T / sqrt(d)) (W_v x)_h), d = C / heads,
    with as many heads as the target's KV has. It begins with W_v = [I, 0], W_o = I: weighted means.

    An entry stands for n / m tokens, in the middle of the image. Departure: it is given cached keys
    and values, and makes such; the paper's is given embeddings.
    """

    is_trained = True

    def __init__(self, sizes: ImageSizes) -> None:
        super().__init__(sizes)
        width = sizes.width
        self.queries = nn.Parameter(torch.randn(1, sizes.queries, width))
        seen = width + sizes.hidden_size
        self.key = nn.Linear(seen, width, bias=False)
        self.value = nn.Linear(seen, width, bias=False)
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            nn.init.normal_(self.key.weight, std=seen**-0.5)
            for layer in (self.value, self.out):
                layer.weight.copy_(torch.eye(*layer.weight.shape))
            self.out.bias.zero_()

    def forward(self, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """m entries, whatever `tokens` and the image's size."""
        x = image.inputs(rotary, self.sizes).to(self.key.weight.dtype)
        queries = self.queries.expand(len(x), -1, -1)
        found = nn.functional.scaled_dot_product_attention(
            self._heads(queries),
            self._heads(self.key(nn.functional.layer_norm(x, x.shape[-1:]))),
            self._heads(self.value(x)),
        )
        y: Tensor = self.out(found.transpose(1, 2).flatten(2))
        whole = torch.full((1,), x.shape[1])
        # Each of them stands for all of the image, and all together for it once.
        apart = [image.made(one, whole, rotary) for one in y.split(1, 1)]
        log_weight = weights(whole, image.k) - torch.tensor(float(len(apart))).log()
        return Entries(
            torch.cat([one.k for one in apart], 2),
            torch.cat([one.v for one in apart], 2),
            log_weight.expand(-1, len(apart)),
        )

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.sizes.num_kv_heads, -1)).transpose(1, 2)
