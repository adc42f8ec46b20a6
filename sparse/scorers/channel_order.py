"""ChannelOrder: which channels of a model's cached keys tell most, measured once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.model.target import Target

FORMAT = "specdec channel order 1"


@dataclass(frozen=True, eq=False)
class ChannelOrder:
    """For each layer and KV head all channels, the most telling first: `int64[Hkv, D]`.

    None stands for a layer with a sliding window. `fingerprint` names the model that it belongs to,
    `text` says in words what it was measured on.
    """

    fingerprint: str
    layers: tuple[Tensor | None, ...]
    text: str

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        layers = [None if order is None else order.tolist() for order in self.layers]
        document = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "text": self.text,
            "layers": layers,
        }
        write_text(path, json.dumps(document) + "\n")

    @classmethod
    def load(cls, path: str | Path, target: Target) -> ChannelOrder:
        """Read a file that `save` wrote for this model.

        Raises InvalidArgument if it cannot be read, is something else, or is another model's.
        """
        how = "`specdec profile --calibrate-channels FILE` makes one"
        try:
            document = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InvalidArgument(
                f"channels={str(path)!r} cannot be read ({error.strerror or error}): give "
                f"'prompt', 'text', or a file; {how}"
            ) from error
        except ValueError as error:
            raise InvalidArgument(f"channels: {path} is not a channel file; {how}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidArgument(f"channels: {path} is not a channel file; {how}")
        if not {"fingerprint", "layers", "text"} <= document.keys():
            raise InvalidArgument(f"channels: {path} is incomplete; {how}")
        layers = document.get("layers")
        if not isinstance(layers, list) or not {"fingerprint", "text"} <= document.keys():
            raise InvalidArgument(f"channels: {path} is cut or changed; {how}")
        if document["fingerprint"] != fingerprint(target):
            raise InvalidArgument(
                f"channels: {path} was made for another model than this "
                f"{type(target.model).__name__} of {target.num_layers} layers; {how} for a model "
                "that --model names"
            )
        shape = target.kv_shape
        for order in layers:
            is_order = order is None or (
                len(order) == shape.kv_heads
                and all(sorted(head) == list(range(shape.head_dim)) for head in order)
            )
            if not is_order or len(layers) != target.num_layers:
                raise InvalidArgument(f"channels: {path} is cut or changed; {how}")
        orders = [None if order is None else torch.tensor(order) for order in layers]
        return cls(document["fingerprint"], tuple(orders), document["text"])


def fingerprint(target: Target) -> str:
    """A name for a model's weights, the same in any dtype: of its shape, norms and embeddings.

    Linear weights are left out: they may be packed, and channels serve fine-tunes of a model well.
    """
    config = target.model.config.get_text_config()
    digest = hashlib.sha256()
    for name in ("model_type", "num_hidden_layers", "hidden_size", "num_key_value_heads"):
        digest.update(f"{name}={getattr(config, name, None)};".encode())
    for parameter in target.model.parameters():
        if parameter.dim() == 1:
            digest.update(_bytes(parameter.detach()))
    embeddings = target.model.get_input_embeddings()
    if embeddings is not None:
        weight = embeddings.weight
        assert isinstance(weight, Tensor)
        digest.update(_bytes(weight.detach()[:64]))
    return digest.hexdigest()[:32]


def _bytes(x: Tensor) -> bytes:
    """Values rounded to bfloat16, so that a model read in another precision is the same one."""
    return x.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
