"""Tiny random models for images, of transformers' own classes, and an image for each."""

from __future__ import annotations

import torch
import transformers as t

from helpers.models import VOCAB

IMAGE = 9  # the id that holds an image's place
TEXT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=32, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, head_dim=8,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
_GRID = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_QWEN = dict(
    text_config={**TEXT, "rope_parameters": _GRID}, image_token_id=IMAGE, video_token_id=10,
    vision_start_token_id=11,
)  # fmt: skip
_TOWER = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
_SQUARE = dict(**_TOWER, image_size=16, patch_size=4)
_BLOCK = dict(patch_size=4, num_heads=2)  # of Qwen's towers

# name -> (model class, config, tokens of the image)
ARCHITECTURES = {
    "llava": lambda: (
        t.LlavaForConditionalGeneration,
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**_SQUARE), text_config=t.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
        ),
        16,
    ),
    "idefics3": lambda: (
        t.Idefics3ForConditionalGeneration,
        t.Idefics3Config(
            vision_config=_SQUARE, text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE,
            scale_factor=2, pad_token_id=0,
        ),
        4,
    ),
    "internvl": lambda: (
        t.InternVLForConditionalGeneration,
        t.InternVLConfig(
            vision_config={**_TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
            text_config=t.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4,
        ),
        4,
    ),
    "gemma3": lambda: (
        t.Gemma3ForConditionalGeneration,
        t.Gemma3Config(
            vision_config=t.SiglipVisionConfig(**_SQUARE), image_token_id=IMAGE,
            text_config=t.Gemma3TextConfig(
                **TEXT, sliding_window=4, query_pre_attn_scalar=8, tie_word_embeddings=False
            ),
            mm_tokens_per_image=4, tie_word_embeddings=False,
        ),
        4,
    ),
    "qwen2-vl": lambda: (
        t.Qwen2VLForConditionalGeneration,
        t.Qwen2VLConfig(
            vision_config=dict(**_BLOCK, depth=1, embed_dim=16, hidden_size=32), **_QWEN
        ),
        6,
    ),
    "qwen2.5-vl": lambda: (
        t.Qwen2_5_VLForConditionalGeneration,
        t.Qwen2_5_VLConfig(
            vision_config=dict(
                **_BLOCK, depth=1, hidden_size=16, intermediate_size=16, out_hidden_size=32,
                window_size=16, fullatt_block_indexes=[0],
            ),
            **_QWEN,
        ),
        6,
    ),
    "qwen3-vl": lambda: (
        t.Qwen3VLForConditionalGeneration,
        t.Qwen3VLConfig(
            vision_config=dict(
                **_BLOCK, depth=2, hidden_size=16, intermediate_size=16, out_hidden_size=32,
                deepstack_visual_indexes=[0, 1], num_position_embeddings=64,
            ),
            **_QWEN,
        ),
        6,
    ),
}  # fmt: skip


def build(name: str, seed: int = 0) -> t.PreTrainedModel:
    """A random model in float64 whose logits differ enough between tokens."""
    torch.manual_seed(seed)
    kind, config, _ = ARCHITECTURES[name]()
    model = kind._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return model.double().eval()


def inputs(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """What its processor would make of a question about an image."""
    count = ARCHITECTURES[name]()[2]
    ids = torch.tensor([[5, 7, 11, *[IMAGE] * count, 3, 4, 8]])
    random = torch.Generator().manual_seed(seed)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name.startswith("qwen"):
        pixels = torch.randn(24, 3 * 2 * 16, generator=random)
        found["image_grid_thw"] = torch.tensor([[1, 4, 6]])
        found["mm_token_type_ids"] = (ids == IMAGE).long()
    else:
        pixels = torch.randn(1, 3, 16, 16, generator=random)
    if name == "idefics3":
        pixels = pixels[None]
    if name == "gemma3":
        found["token_type_ids"] = (ids == IMAGE).long()
    return {**found, "pixel_values": pixels.double()}
