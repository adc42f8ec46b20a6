"""KeyTokens: attention gathered under noise and a rising temperature (Keyformer, 2403.09054)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.precision import wide
from specdec.kernels.sampling.philox import philox
from specdec.sparse.importances.base import Observed, Statistics, grown


@dataclass(frozen=True)
class KeyTokens:
    """score[h, t] = sum over i, g of softmax_t((x[h, g, i, t] + n[h, g, t]) / T(i)).

    x are logits, n standard Gumbel noise, T(i) = min(last, first + step * i') for the i'-th query
    behind the prompt and `first` before (Keyformer, equations 7 to 10: temperature 1 to 2; its code
    rises by 0.01 a step where the length of the text is not known). Noise is drawn once for each
    token and query head, by a counter of (seed, layer, head, token): the same text has the same
    noise, however it is read, rolled back or forked.
    """

    seed: int = 0
    first: float = 1.0
    last: float = 2.0
    step: float = 0.01

    @property
    def key(self) -> str:
        return f"key-tokens-{self.seed}-{self.first}-{self.last}-{self.step}"

    def begin(self, heads: int, like: Tensor) -> Statistics:
        return (like.new_zeros(heads, 0),)

    def update(self, statistics: Statistics, seen: Observed) -> Statistics:
        heads, group, _, tokens = seen.logits.shape
        noise = self.noise(seen.layer, heads * group, tokens, seen.logits.device)
        logits = wide(seen.logits)
        logits = logits + noise.view(heads, group, 1, tokens).to(logits.dtype)
        since = (seen.positions - (seen.prompt - 1)).clamp_min(0).to(logits)
        heat = (self.first + self.step * since).clamp_max(self.last)
        mass = (logits / heat[:, None]).softmax(dim=-1).sum(dim=(1, 2))
        return (grown(statistics[0], tokens).add(mass.to(statistics[0].dtype)),)

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        return statistics[0]

    def noise(self, layer: int, heads: int, tokens: int, device: torch.device) -> Tensor:
        """Standard Gumbel noise of the first tokens, `float64[heads, tokens]`."""
        blocks = torch.arange(-(-tokens // 4), device=device).expand(heads, -1)
        head = torch.arange(heads, device=device)[:, None]
        words = philox(self.seed, (head, layer, 0), blocks).view(heads, -1)[:, :tokens]
        return -(-((words.double() + 0.5) * 2.0**-32).log()).log()
