"""Calibration: the channels of a model's cached keys by what they add to attention logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from specdec.cachedir import build_folder, cache_root
from specdec.errors import InvalidArgument
from specdec.forward.attention_call import AttentionCall
from specdec.forward.full_view import FullView
from specdec.forward.observer import SeenPass
from specdec.model.target import Target
from specdec.sparse.fingerprint import fingerprint
from specdec.sparse.scorers.channel_order import ChannelOrder

log = logging.getLogger("specdec")

TOKENS = 2048  # of the text, from its start
FILE = "channels.json"


def channel_order(target: Target, tokenizer: Any, source: Any) -> ChannelOrder | None:
    """The order that an option `channels` asks for; None for "prompt", the text at hand.

    source: "prompt"; "text" for one measured on the Python manual, at the first time, and kept in
    the cache folder; a file; or an order. Raises InvalidArgument for a file of another model.
    """
    if source is None or source == "prompt":
        return None
    if isinstance(source, ChannelOrder):
        return source
    if source != "text":
        return ChannelOrder.load(source, target)
    if tokenizer is None:
        raise InvalidArgument(
            "channels='text' needs a tokenizer, and this model has none: give 'prompt' or a file"
        )

    def build(folder: Path) -> None:
        log.info("measuring label channels on the Python manual, once for this model")
        tokens = list(tokenizer("\n\n".join(topics.values()))["input_ids"])
        calibrate(target, tokens, "the Python manual").save(folder / FILE)

    folder = build_folder(cache_root() / "channels" / fingerprint(target), build)
    return ChannelOrder.load(folder / FILE, target)


@torch.inference_mode()
def calibrate(target: Target, tokens: Sequence[int], text: str) -> ChannelOrder:
    """Order channels by mean |q k| over the first `TOKENS` of a text.

    Both as they are cached, after q/k norm and RoPE, each query with the key of its own position;
    mean over positions and over the query heads of a KV head (Double Sparsity's "qk" statistic,
    arXiv 2408.07092).
    """
    tokens = list(tokens)[: min(TOKENS, target.max_positions)]
    products = _Products()
    target.prefill(target.new_store(1, len(tokens)), FullView(), 0, tokens, [products])
    sums = [products.sums.get(layer) for layer in range(target.num_layers)]
    layers = [None if s is None else s.argsort(dim=-1, descending=True).cpu() for s in sums]
    return ChannelOrder(fingerprint(target), tuple(layers), text)


class _Products:
    """Sums |q k| per channel in the layers with full attention: an `Observer`."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        if call.window is None:
            k = call.k[0].abs().float()
            q = call.q[0].abs().float().unflatten(0, (k.shape[0], -1)).mean(dim=1)
            total = (q * k).sum(dim=1)
            self.sums[call.layer] = self.sums.get(call.layer, 0) + total
