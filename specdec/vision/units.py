"""Units: what a vision tower reads at a time: an image, a tile of one, or a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from specdec.sampling.span import digest_of

GRIDS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
_BESIDE = {  # what goes with each of the pixels' leading entries
    "pixel_values": ("pixel_attention_mask", "image_sizes"),
    "pixel_values_videos": ("image_sizes_videos", "second_per_grid_ts"),
}
_ROWS = "batch_num_images"  # of LLaVA-OneVision, which cuts an image up that is alone in its row


@dataclass(frozen=True, eq=False)
class Unit:
    """One image, tile or video: `tensors` as the model takes it alone, and what tells its pixels
    from others. Entries that only fill up a batch count for nothing there."""

    tensors: Mapping[str, Tensor]
    digest: bytes


def units_of(name: str, given: Mapping[str, Any]) -> list[Unit]:
    """Those of `given[name]`, pixels of images or of videos, in the order in which a model reads
    them. Raises RuntimeError for tensors that do not fit each other."""
    pixels, grid = given[name], given.get(GRIDS[name])
    beside = {key: given[key] for key in _BESIDE[name] if given.get(key) is not None}
    if grid is not None:
        parts = pixels.split(grid.prod(-1).tolist())
        return [
            _unit({name: x, GRIDS[name]: grid[i : i + 1], **_at(beside, i)}, x)
            for i, x in enumerate(parts)
        ]
    rows = 1 if pixels.dim() == 5 and given.get("image_sizes") is None else 0
    if rows and name == "pixel_values":  # rows of images, filled up with empty ones
        pixels = pixels.flatten(0, 1)
        real = pixels.flatten(1).any(1)
        beside = {key: x.flatten(0, 1)[real][:, None] for key, x in beside.items()}
        return [
            _unit({name: x[None, None], **_at(beside, i)}, x) for i, x in enumerate(pixels[real])
        ]
    beside = {key: x for key, x in beside.items() if len(x) == len(pixels)}
    if name == "pixel_values" and given.get(_ROWS) is not None:
        counts = given[_ROWS]
        beside[_ROWS] = counts.repeat_interleave(counts)
    return [
        _unit({name: x[None], **_at(beside, i)}, _real(x) if name == "pixel_values" else x)
        for i, x in enumerate(pixels)
    ]


def _at(beside: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    return {key: x[i : i + 1] for key, x in beside.items()}


def _unit(tensors: Mapping[str, Tensor], pixels: Tensor) -> Unit:
    first, *others = tensors.values()
    return Unit(tensors, digest_of([pixels, *others]))


def _real(x: Tensor) -> Tensor:
    """An image without the empty patches behind it, of which there may be more beside others."""
    if x.dim() != 4:
        return x
    filled = x.flatten(1).any(1).nonzero()
    return x[: int(filled[-1]) + 1] if len(filled) else x
