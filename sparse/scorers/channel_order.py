"""ChannelOrder: which channels of a model's cached keys tell most, measured once and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.model.target import Target
from specdec.sparse.fingerprint import check_model

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
        layers = document["layers"]
        if not isinstance(layers, list):
            raise InvalidArgument(f"channels: {path} is cut or changed; {how}")
        check_model(f"channels: {path}", document["fingerprint"], target, how)
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
