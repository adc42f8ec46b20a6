"""RetainingHeads: small networks that foretell how much a token will be looked at (Locret)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import silu

from specdec.errors import InvalidArgument
from specdec.files import replacing
from specdec.model.target import Target
from specdec.sparse.scorers.channel_order import fingerprint

FORMAT = "specdec retaining heads 1"
HOW = "`specdec calibrate locret FILE` trains some"


@dataclass(frozen=True, eq=False)
class RetainingHeads:
    """score[h, t] = (silu(x_t W1) W2)[h] with x_t = [q_t, k_t, v_t], for each layer.

    Locret (arXiv 2410.01805, eq. 3): q_t of all query heads, k_t and v_t of all KV heads, before
    rotation; no bias. layers: W1 `[(Hq + Hkv) * D + Hkv * Dv, hidden]` and W2 `[hidden, Hkv]`, None
    for a sliding window. The scores foretell the greatest logit that a later query gives a token.
    fingerprint: of the model; text: what they were trained on, in words.
    """

    fingerprint: str
    text: str
    layers: tuple[tuple[Tensor, Tensor] | None, ...]

    def scores(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`[Hkv, n]` of n tokens, whose `q[Hq, n, D]`, `k[Hkv, n, D]` and `v[Hkv, n, Dv]` are
        before rotation."""
        weights = self.layers[layer]
        assert weights is not None, layer
        return retained(features(q, k, v).to(weights[0]), *weights).mT

    def save(self, path: Path) -> None:
        """Write one safetensors file, weights in float16."""
        tensors = {
            f"{n}.{name}": x.detach().half().cpu().contiguous()
            for n, layer in enumerate(self.layers)
            if layer is not None
            for name, x in zip(("w1", "w2"), layer, strict=True)
        }
        facts = {"fingerprint": self.fingerprint, "text": self.text, "layers": len(self.layers)}
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, {"specdec": json.dumps({"format": FORMAT, **facts})})

    @classmethod
    def load(cls, path: str | Path, target: Target) -> RetainingHeads:
        """Read a file that `save` wrote for this model, in float32 on its device.

        Raises InvalidArgument, saying why, if it cannot be read or is another model's.
        """
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get("specdec", "{}"))
                names = list(file.keys())
                tensors = {name: file.get_tensor(name).float() for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise InvalidArgument(
                f"calibration={str(path)!r} cannot be read ({error}): give 'auto' or a file; {HOW}"
            ) from error
        if facts.get("format") != FORMAT:
            raise InvalidArgument(f"calibration: {path} holds no retaining heads; {HOW}")
        if facts["fingerprint"] != fingerprint(target):
            raise InvalidArgument(
                f"calibration: {path} was made for another model than this "
                f"{type(target.model).__name__} of {target.num_layers} layers; {HOW} for a model "
                "that --model names"
            )
        layers = [
            (tensors[f"{n}.w1"].to(target.device), tensors[f"{n}.w2"].to(target.device))
            if f"{n}.w1" in tensors and f"{n}.w2" in tensors
            else None
            for n in range(facts["layers"])
        ]
        return cls(facts["fingerprint"], facts["text"], tuple(layers))


def features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`[n, (Hq + Hkv) * D + Hkv * Dv]`: what a layer makes of each token."""
    return torch.cat([x.transpose(0, 1).flatten(1) for x in (q, k, v)], dim=-1)


def retained(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """`[..., n, Hkv]` for features `x[..., n, F]`."""
    return silu(x @ w1) @ w2
