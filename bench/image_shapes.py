"""Models for images of known shapes, with random weights, so that costs can be measured without
theirs. What they say is noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as t
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument, unknown_name


@dataclass(frozen=True)
class ImageShape:
    """A model's configuration for a number of text layers, and what its processor makes of images.

    layers: of the whole model. pixels: tensors of one image; images: of several, joined.
    tokens: of one image, in the prompt.
    """

    kind: type[PreTrainedModel]
    layers: int
    config: Callable[[int], Any]
    pixels: Callable[[], dict[str, torch.Tensor]]
    tokens: int


def _smolvlm(layers: int) -> Any:
    kind: Any = t.SmolVLMConfig
    return kind(
        vision_config=dict(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            image_size=512, patch_size=16,
        ),
        text_config=t.LlamaConfig(
            vocab_size=49280, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
            num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        ),
        image_token_id=49190, scale_factor=4, pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip


def _qwen(layers: int) -> Any:
    return t.Qwen2_5_VLConfig(
        vision_config=dict(
            depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048,
            patch_size=14, window_size=112, fullatt_block_indexes=[7, 15, 23, 31],
        ),
        text_config=dict(
            vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=layers,
            num_attention_heads=16, num_key_value_heads=2, max_position_embeddings=32768,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]
            },
        ),
        image_token_id=151655, video_token_id=151656, vision_start_token_id=151652,
        tie_word_embeddings=True,
    )  # fmt: skip


SHAPES = {
    "smolvlm-256m": ImageShape(  # a picture in 4 x 4 tiles of 512 and the whole
        t.SmolVLMForConditionalGeneration, 30, _smolvlm,
        lambda: {"pixel_values": torch.randn(1, 17, 3, 512, 512)}, 17 * 64,
    ),
    "qwen2.5-vl-3b": ImageShape(  # a picture of 504 x 504
        t.Qwen2_5_VLForConditionalGeneration, 36, _qwen,
        lambda: {
            "pixel_values": torch.randn(36 * 36, 1176),
            "image_grid_thw": torch.tensor([[1, 36, 36]]),
        },
        18 * 18,
    ),
}  # fmt: skip


def random_images_model(
    name: str, layers: int | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, ImageShape]:
    """A model of a shape, with so many of its text layers. Raises InvalidArgument."""
    shape = SHAPES.get(name)
    if shape is None:
        raise unknown_name("--random", name, SHAPES)
    layers = shape.layers if layers is None else layers
    if layers > shape.layers:
        raise InvalidArgument(f"--layers {layers}: {name} has {shape.layers}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        model = shape.kind._from_config(shape.config(layers), attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    return model.eval(), shape


def asked(shape: ImageShape, model: PreTrainedModel, images: int, text: int) -> dict[str, Any]:
    """What its processor would give for so many images and `text` tokens of a question."""
    config: Any = model.config
    picture = [config.image_token_id] * shape.tokens
    ids = [token for _ in range(images) for token in (7, *picture)] + [11] * text
    made = [shape.pixels() for _ in range(images)]
    dim = 1 if "image_grid_thw" not in made[0] else 0
    tensors = {name: torch.cat([x[name] for x in made], dim=dim) for name in made[0]}
    tensors["pixel_values"] = tensors["pixel_values"].to(model.dtype)
    row = torch.tensor([ids])
    types = {"mm_token_type_ids": (row == config.image_token_id).long()} if not dim else {}
    return {"input_ids": row, "attention_mask": torch.ones_like(row), **tensors, **types}
