"""AttentionMass: what share of its attention a query of the target gives to which key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.decoding.cached_model import CachedModel
from specdec.forward.attention_call import AttentionCall
from specdec.forward.full_view import FullView
from specdec.forward.observer import SeenPass
from specdec.forward.plan import Needs
from specdec.forward.query_recorder import QueryRecorder
from specdec.model.target import Target
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree


@dataclass
class Probe:
    """Keeps each layer's attention call of the last pass over a tree: an `Observer`."""

    calls: dict[int, AttentionCall] = field(default_factory=dict)

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        self.calls[call.layer] = call


class Walk:
    """The target reads a text as if it verified perfect drafts: `depth` + 1 tokens a round.

    prompt: is read once. coming texts: see `along`. `row` is where the text stands; views that
    draft beside it take `model` as their base. wants: what is kept for them. looks: keep each
    layer's attention call of the last pass in `probe`.
    """

    def __init__(
        self,
        target: Target,
        prompt: Sequence[int],
        depth: int,
        room: int,
        wants: Needs,
        looks: bool = False,
    ) -> None:
        self.target, self.depth = target, depth
        self.tokens = list(prompt)
        size = len(self.tokens)
        sampler = Sampler([], False, Noise(0), "coupled")
        self.row = Row(0, 0, list(prompt), size, size + room, sampler, num_final=size)
        self.probe = Probe()
        watch = [self.probe] if looks else []
        self.model = CachedModel(
            target, FullView(), [self.row], recorder=QueryRecorder.of(wants), watch=watch
        )

    @torch.inference_mode()
    def along(self, text: Sequence[int]) -> None:
        """Stand at the end of the prompt, in place, with `text` to come."""
        size, held = self.row.num_prompt_tokens, self.model.text.held[0]
        del self.tokens[size:], self.row.tokens[size:]
        self.tokens += text
        self.row.num_final, self.row.round = size, 0
        held.num_final = min(held.num_final, size - 1)
        self.model.sync_to(self.row, size - 1)
        if self.model.recorder is not None:  # what it kept of verification is of another text
            self.model.recorder.passes.clear()
            self.model.recorder.paths.clear()

    @property
    def coming(self) -> list[int]:
        """The next `depth` + 1 tokens of the text."""
        end = len(self.row.tokens)
        return self.tokens[end : end + self.depth + 1]

    def verify(self) -> Tensor:
        """Logits `[depth + 1, V]` of the full view: after the last token and the coming ones."""
        tree = TokenTree.chain(self.row.tokens[-1], self.coming[:-1])
        return self.model.forward([self.row], [tree])[0]

    def advance(self) -> None:
        """Take up the coming tokens."""
        self.row.tokens.extend(self.coming)
        self.row.num_final = len(self.row.tokens)
        self.row.round += 1

    @property
    def committed(self) -> int:
        """Tokens that the store holds before the round's own, S."""
        return self.model.store.length(0)

    def kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[Hkv, S, D]` of the committed text."""
        level = self.model.store.levels[0]
        keys, values = level.k[layer], level.v[layer]
        assert keys is not None and values is not None
        return keys[0, :, : self.committed], values[0, :, : self.committed]

    def mass(self, layer: int) -> Tensor:
        """Attention `[Hkv, G, N, S + N]` of the queries of the last `verify`, N = depth + 1."""
        return attention_mass(self.probe.calls[layer], self.kv(layer)[0])


def walk_along(
    target: Target, tokens: Sequence[int], depth: int, rounds: int, wants: Needs
) -> Walk:
    """A walk that looks, along the `rounds` last rounds of a text; all before is the prompt."""
    coming = rounds * (depth + 1)
    walk = Walk(target, tokens[:-coming], depth, coming, wants, looks=True)
    walk.along(tokens[-coming:])
    return walk


@torch.inference_mode()
def attention_mass(call: AttentionCall, keys: Tensor) -> Tensor:
    """Attention `[Hkv, G, N, S + N]` of a chain's N queries over `keys[Hkv, S, D]` and the chain.

    A sliding window and sinks are left out: this is for layers that attend to all of a text.
    """
    heads, (_, _, nodes, dim) = keys.shape[0], call.q.shape
    q = call.q[0].reshape(heads, -1, dim).float()
    logits = q @ torch.cat([keys, call.k[0]], dim=1).float().mT * call.scale
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    logits = logits.unflatten(1, (-1, nodes))
    later = torch.ones(nodes, nodes, dtype=torch.bool, device=q.device).triu(1)
    logits[..., keys.shape[1] :].masked_fill_(later, -torch.inf)
    return logits.softmax(dim=-1)
