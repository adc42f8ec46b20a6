"""Digests: what tells one image from another, by its pixels.

Embeddings would tell, too, but an image that stands in a batch with others may come out of the
tower rounded otherwise; then a saved prompt would not be found again in a longer conversation. So
a span is known by the pixels that it is made of, and by those of all images before it in its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.model.text_part import decoder_of
from specdec.sampling.span import digest_of
from specdec.vision.inputs import OPTIONS, PIXELS
from specdec.vision.units import GRIDS, units_of

_SAMPLES = 32  # numbers of each weight of the tower


class Digests:
    """Of the spans of a batch: `ids[B, n]`, which of them are `images[B, n]`, and their tensors."""

    def __init__(
        self, model: PreTrainedModel, ids: Tensor, images: Tensor, given: Mapping[str, Any]
    ) -> None:
        how = repr([given.get(name) for name in OPTIONS]).encode()
        self._tower = tower_digest(model) + how
        video = getattr(model.config, "video_token_id", None)
        is_video = torch.zeros_like(images) if video is None else images & (ids == video)
        places = {"pixel_values": images & ~is_video, "pixel_values_videos": is_video}
        self._kinds = []
        for name in PIXELS:
            if given.get(name) is not None:
                units = [unit.digest for unit in units_of(name, given)]
                mine = places[name]
                others = [x for other, x in places.items() if other != name][0]
                if not bool(mine.any()) and len(given.keys() & set(PIXELS)) == 1:
                    mine = mine | others  # a family that writes both with one token
                self._kinds.append((mine, units, _shares(name, given, units, mine, model)))

    def of(self, row: int, start: int, end: int) -> bytes:
        """Of the tokens from `start` to `end` of a row, by all that they may be made of."""
        known = blake2b(self._tower, digest_size=16)
        for places, units, shares in self._kinds:
            before = int(places[:row].sum())
            here = int(places[row, :start].sum())
            upto = int(places[row, :end].sum())
            known.update(f"{here} {upto} ".encode())
            for unit, share in zip(units, shares, strict=True):
                if share.start < before + upto and share.stop > before:
                    known.update(unit)
        return known.digest()


def tower_digest(model: PreTrainedModel) -> bytes:
    """Of the weights that images go through, by some numbers of each."""
    text = {id(p) for p in decoder_of(model).parameters()}
    head = model.get_output_embeddings()
    text |= {id(p) for p in head.parameters()} if head is not None else set()
    known = blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        if id(weight) not in text and weight.numel() and not weight.is_meta:
            step = max(1, weight.numel() // _SAMPLES)
            known.update(f"{name} {tuple(weight.shape)} ".encode())
            known.update(digest_of([weight.flatten()[::step]]))
    return known.digest()


def _shares(
    name: str, given: Mapping[str, Any], units: Sequence[bytes], places: Tensor, model: Any
) -> list[range]:
    """Which image tokens each image may be the source of: all, where nothing tells them apart."""
    total, runs = int(places.sum()), _run_lengths(places)
    grid = given.get(GRIDS[name])
    counts: list[int] = []
    if grid is not None:
        merge = getattr(model.config.vision_config, "spatial_merge_size", 1)
        counts = (grid.prod(-1) // merge**2).tolist()
    elif len(runs) == len(units):
        counts = runs
    elif total % len(units) == 0 and all(x % (total // len(units)) == 0 for x in runs):
        counts = [total // len(units)] * len(units)
    if sum(counts) != total:
        return [range(total)] * len(units)
    ends = [0, *accumulate(counts)]
    return [range(a, b) for a, b in pairwise(ends)]


def _run_lengths(places: Tensor) -> list[int]:
    """How many image tokens stand together, again and again, row by row."""
    lengths = []
    for row in places.tolist():
        count = 0
        for is_image in [*row, False]:
            if is_image:
                count += 1
            elif count:
                lengths.append(count)
                count = 0
    return lengths
