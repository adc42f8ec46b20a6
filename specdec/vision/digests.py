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
from specdec.vision.inputs import OPTIONS, PIXELS

_SAMPLES = 32  # numbers of each weight of the tower
_GRIDS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
_BESIDE = {  # what goes with each of the pixels' leading entries
    "pixel_values": ("pixel_attention_mask", "image_sizes"),
    "pixel_values_videos": ("image_sizes_videos", "second_per_grid_ts"),
}


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
                units = _units(name, given)
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
            known.update(_bytes(weight.detach().flatten()[::step]))
    return known.digest()


def _units(name: str, given: Mapping[str, Any]) -> list[bytes]:
    """A digest of each image, tile or video, in the order in which the model reads them."""
    pixels, grid = given[name], given.get(_GRIDS[name])
    beside = [given[key] for key in _BESIDE[name] if given.get(key) is not None]
    if grid is not None:
        parts = pixels.split(grid.prod(-1).tolist())
        return [_digest([x, *(y[i] for y in (grid, *beside))]) for i, x in enumerate(parts)]
    if pixels.dim() == 5 and given.get("image_sizes") is None and name == "pixel_values":
        # rows of images, filled up with empty ones
        pixels = pixels.flatten(0, 1)
        beside = [x.flatten(0, 1) for x in beside]
        real = pixels.flatten(1).any(1)
        pixels, beside = pixels[real], [x[real] for x in beside]
    return [
        _digest([_without_empty(x), *(y[i] for y in beside if len(y) == len(pixels))])
        for i, x in enumerate(pixels)
    ]


def _without_empty(x: Tensor) -> Tensor:
    """An image without the empty patches behind it, of which there may be more beside others."""
    return x[x.flatten(1).any(1)] if x.dim() == 4 else x


def _shares(
    name: str, given: Mapping[str, Any], units: Sequence[bytes], places: Tensor, model: Any
) -> list[range]:
    """Which image tokens each image may be the source of: all, where nothing tells them apart."""
    total, runs = int(places.sum()), _run_lengths(places)
    grid = given.get(_GRIDS[name])
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


def _digest(tensors: Sequence[Tensor]) -> bytes:
    known = blake2b(digest_size=16)
    for x in tensors:
        known.update(f"{tuple(x.shape)} {x.dtype} ".encode())
        known.update(_bytes(x))
    return known.digest()


def _bytes(x: Tensor) -> bytes:
    made: bytes = x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return made
