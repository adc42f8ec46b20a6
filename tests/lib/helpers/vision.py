"""Tiny random models for images, of transformers' own classes, and an image for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import transformers as t

from helpers.models import VOCAB

IMAGE, VIDEO = 9, 10  # the ids that hold the places of images and video frames
_PINPOINTS = [[16, 32], [32, 16], [32, 32]]
TEXT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=32, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, head_dim=8,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
_GRID = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_QWEN = dict(
    text_config={**TEXT, "rope_parameters": _GRID}, image_token_id=IMAGE, video_token_id=VIDEO,
    vision_start_token_id=11,
)  # fmt: skip
_TOWER = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
_SQUARE = dict(**_TOWER, image_size=16, patch_size=4)
_BLOCK = dict(patch_size=4, num_heads=2)  # of Qwen's towers

# name -> (model class, config)
ARCHITECTURES = {
    "llava": lambda: (
        t.LlavaForConditionalGeneration,
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**_SQUARE), text_config=t.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
        ),
    ),
    "llava-next": lambda: (
        t.LlavaNextForConditionalGeneration,
        t.LlavaNextConfig(
            vision_config=t.CLIPVisionConfig(**_SQUARE), text_config=t.LlamaConfig(**TEXT),
            image_token_id=IMAGE, image_grid_pinpoints=_PINPOINTS, image_seq_length=16,
        ),
    ),
    "llava-onevision": lambda: (
        t.LlavaOnevisionForConditionalGeneration,
        t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**_SQUARE), text_config=t.Qwen2Config(**TEXT),
            image_token_id=IMAGE, video_token_id=VIDEO, image_grid_pinpoints=_PINPOINTS,
            vision_aspect_ratio="anyres_max_9",
        ),
    ),
    "smolvlm": lambda: (
        t.SmolVLMForConditionalGeneration,
        t.SmolVLMConfig(
            vision_config=_SQUARE, text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE,
            scale_factor=2, pad_token_id=0,
        ),
    ),
    "idefics3": lambda: (
        t.Idefics3ForConditionalGeneration,
        t.Idefics3Config(
            vision_config=_SQUARE, text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE,
            scale_factor=2, pad_token_id=0,
        ),
    ),
    "internvl": lambda: (
        t.InternVLForConditionalGeneration,
        t.InternVLConfig(
            vision_config={**_TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
            text_config=t.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4,
        ),
    ),
    "gemma3": lambda: (
        t.Gemma3ForConditionalGeneration,
        t.Gemma3Config(
            vision_config=t.SiglipVisionConfig(**_SQUARE), image_token_id=IMAGE,
            text_config=t.Gemma3TextConfig(
                **TEXT, sliding_window=3, query_pre_attn_scalar=8, tie_word_embeddings=False,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            ),
            mm_tokens_per_image=4, tie_word_embeddings=False,
        ),
    ),
    "qwen2-vl": lambda: (
        t.Qwen2VLForConditionalGeneration,
        t.Qwen2VLConfig(
            vision_config=dict(**_BLOCK, depth=1, embed_dim=16, hidden_size=32), **_QWEN
        ),
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
    ),
}  # fmt: skip


def build(name: str, seed: int = 0) -> t.PreTrainedModel:
    """A random model in float64 whose logits differ enough between tokens."""
    torch.manual_seed(seed)
    kind, config = ARCHITECTURES[name]()
    model = kind._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return model.double().eval()


# What an image of the first and of the second size takes: tokens, and shape of its pixels.
_SIZES = {
    "llava": [(16, [3, 16, 16])] * 2,
    "gemma3": [(4, [3, 16, 16])] * 2,
    "llava-next": [(52, [3, 3, 16, 16]), (88, [5, 3, 16, 16])],  # patches
    "llava-onevision": [(52, [3, 3, 16, 16]), (88, [5, 3, 16, 16])],
    "idefics3": [(4, [1, 3, 16, 16]), (12, [3, 3, 16, 16])],  # tiles
    "smolvlm": [(4, [1, 3, 16, 16]), (12, [3, 3, 16, 16])],
    "internvl": [(4, [1, 3, 16, 16]), (12, [3, 3, 16, 16])],
    "qwen": [(6, [24, 96]), (8, [32, 96])],
}
_GRIDS = [[1, 4, 6], [1, 8, 4]]
_PIXELS = [[16, 40], [32, 32]]  # height and width, of LLaVA-NeXT and OneVision
_MARK = 12  # stands between the tiles of Idefics 3
TAKES_VIDEO = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "llava-onevision")


def inputs(
    name: str, seed: int = 0, images: Sequence[int] = (0,), frames: int = 0
) -> dict[str, torch.Tensor]:
    """What its processor would make of a question about images of these sizes, the first or the
    second one, behind each other with a word between them, and of a video of so many frames."""
    random = torch.Generator().manual_seed(seed)
    sizes = _SIZES["qwen" if name.startswith("qwen") else name]
    ids, found, pixels = [5, 7], {}, []
    for which in images:
        tokens, shape = sizes[which]
        pixels.append(torch.randn(*shape, generator=random).double())
        has_marks = name in ("idefics3", "smolvlm") and which
        ids += [11, *([IMAGE] * 4 + [_MARK]) * 3] if has_marks else [11, *[IMAGE] * tokens]
        ids += [3]
    if images and name.startswith("qwen"):
        found["pixel_values"] = torch.cat(pixels)
        found["image_grid_thw"] = torch.tensor([_GRIDS[which] for which in images])
    elif images and name in ("llava-next", "llava-onevision"):
        most = max(map(len, pixels))
        padded = [torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]) for x in pixels]
        found["pixel_values"] = torch.stack(padded)
        found["image_sizes"] = torch.tensor([_PIXELS[which] for which in images])
    elif images:
        tiles = [x if x.dim() == 4 else x[None] for x in pixels]
        found["pixel_values"] = torch.cat(tiles)[None] if has_rows(name) else torch.cat(tiles)
    if frames:
        ids += _video(name, frames, random, found) + [3]
    ids = torch.tensor([[*ids, 4, 8]])
    if name == "gemma3":
        found["token_type_ids"] = (ids == IMAGE).long()
    if name.startswith("qwen"):
        found["mm_token_type_ids"] = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **found}


def has_rows(name: str) -> bool:
    """Whether pixels come with a dimension for the rows of a batch."""
    return name in ("idefics3", "smolvlm")


def _video(
    name: str, frames: int, random: torch.Generator, found: dict[str, torch.Tensor]
) -> list[int]:
    if name == "llava-onevision":
        found["pixel_values_videos"] = torch.randn(1, frames, 3, 16, 16, generator=random).double()
        return [11, *[VIDEO] * (frames * 4 + 1)]
    found["pixel_values_videos"] = torch.randn(frames * 16, 96, generator=random).double()
    found["video_grid_thw"] = torch.tensor([[frames, 4, 4]])
    if name == "qwen3-vl":  # a time before each frame
        return [token for i in range(frames) for token in (13, 14 + i, 11, *[VIDEO] * 4)]
    return [11, *[VIDEO] * (frames * 4)]


def padded(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of one model as its processor would put them into a batch: padded on the left."""
    most = max(row["input_ids"].shape[1] for row in rows)
    out: dict[str, torch.Tensor] = {}
    for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if any(key in row for row in rows):
            zeros = [row.get(key, torch.zeros_like(row["input_ids"])) for row in rows]
            out[key] = torch.cat([F.pad(x, (most - x.shape[1], 0)) for x in zeros])
    for key in {key for row in rows for key in row} - out.keys():
        parts = [row[key] for row in rows if key in row]
        if key == "pixel_values" and parts[0].dim() == 5:
            along = max(x.shape[1] for x in parts)
            parts = [F.pad(x, (0, 0) * 3 + (0, along - x.shape[1])) for x in parts]
            if len(parts) < len(rows):  # rows without images are rows of empty ones
                blank = torch.zeros_like(parts[0])
                if "image_sizes" not in rows[0]:
                    parts = [parts.pop(0) if key in row else blank for row in rows]
        out[key] = torch.cat(parts)
    return out
