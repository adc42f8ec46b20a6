"""key_change: how far a layer's keys are others where the text before them is read in part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.calibrations.calibration import Numbers

SINK, WINDOW = 128, 4096  # EpiCache's block mask, whose windows overlap by half


@torch.inference_mode()
def key_change(target: Target, text: Sequence[int], length: int = 2048) -> list[Numbers | None]:
    """Each layer's `similarity`: the mean cosine between its keys with and without a block mask.

    EpiCache (arXiv 2509.17396) compares keys under full attention with those of tokens that see 128
    sinks and a window of 4,096; of a shorter text they are an eighth and a quarter. A window's
    second half is compared, but for the first window, which is whole. Keys are as attention caches
    them, at their places in the text, head by head.
    """
    tokens = list(text)[: min(length, target.max_positions)]
    sink, window = min(SINK, len(tokens) // 8), min(WINDOW, len(tokens) // 4)
    whole = _keys(target, tokens, list(range(len(tokens))))
    sums, count = [0.0] * target.num_layers, 0
    for start in range(0, len(tokens) - window + 1, max(1, window // 2)):
        seen = list(range(min(sink, start))) + list(range(start, start + window))
        new = slice(len(seen) - window // 2, None) if start else slice(None)
        at = seen[new]
        for n, keys in enumerate(_keys(target, tokens, seen)):
            if keys is None or (full := whole[n]) is None:
                continue
            likeness = cosine_similarity(keys[:, new].double(), full[:, at].double(), dim=-1)
            sums[n] += float(likeness.mean(dim=0).sum())
        count += len(at)
    kinds = target.layer_types
    return [
        None if kinds[n] == "sliding_attention" else {"similarity": [sums[n] / count]}
        for n in range(target.num_layers)
    ]


def _keys(target: Target, tokens: list[int], seen: list[int]) -> list[Tensor | None]:
    """Keys `[Hkv, n, D]` of each layer, where only the tokens at `seen` are there to be read."""
    store = target.new_store(1, len(seen))
    where = torch.tensor([seen], device=target.device)
    target.forward([[tokens[i] for i in seen]], ForwardPass(store, FullView(), [0], where))
    return [None if k is None else k[0, :, : len(seen)].clone() for k in store.levels[0].k]
