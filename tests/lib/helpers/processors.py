"""Processors of transformers' own classes for the tiny models of `vision`, made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import transformers as t
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ProcessorMixin

from helpers.models import VOCAB

WORDS = [
    "what", "is", "this", "that", "a", "word", "one", "two", "three", "and", "of", "the", "image",
    "text", "more", "say",
]  # fmt: skip

# name -> (what holds an image's place, a video's, what stands around it)
_TOKENS = {
    "gemma3": ("<image_soft_token>", "<video>", "<start_of_image>", "<end_of_image>"),
    "internvl": ("<IMG_CONTEXT>", "<video>", "<img>", "</img>"),
    "qwen": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    "other": ("<image>", "<video>", "<fake_token_around_image>", "<global-img>"),
}
_TILES = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% elif part['type'] == 'image' %}IMAGE "
    "{% endif %}{% endfor %}{% if not loop.last or add_generation_prompt %}</s> {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
_SQUARE = {"height": 16, "width": 16}
_SHORT = dict(size={"shortest_edge": 16}, crop_size=_SQUARE)
_PINPOINTS = [[16, 32], [32, 16], [32, 32]]
_SPLIT = dict(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
_GRID = dict(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
_LLAVA = dict(patch_size=4, vision_feature_select_strategy="default")


def build(name: str) -> Any:
    """The processor of a tiny model: a token for each word, and images by PIL."""
    kind = "qwen" if name.startswith("qwen") else name
    image, video, start, end = _TOKENS.get(kind, _TOKENS["other"])
    # as `vision` numbers them
    words = ["<pad>", "</s>", "user", "assistant", ":", "?", "system", "unk", "\n", image, video]
    words += [start, end, *_TILES, "<end_of_utterance>", *WORDS]
    words += [f"w{i}" for i in range(VOCAB - len(words))]
    bare = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="unk"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {
        "gemma3": {"image_token": image, "boi_token": start, "eoi_token": end},
        "internvl": {
            "start_image_token": start, "end_image_token": end, "context_image_token": image,
            "video_token": video,
        },
    }.get(kind, {})  # fmt: skip
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", eos_token="</s>", extra_special_tokens=special
    )
    tokenizer.add_tokens([w for w in words if w.startswith("<")], special_tokens=True)
    shown = {"qwen": f"{start} {image} {end}", "gemma3": start}.get(kind, image)
    template = {"chat_template": _TEMPLATE.replace("IMAGE", shown)}
    module = "transformers.models.smolvlm.processing_smolvlm.num2words"
    # without torchvision there is no video processor, and without num2words none of SmolVLM's
    with (
        patch.object(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None),
        patch(module, str),
    ):
        return _MADE[kind](tokenizer, template, name)


_MADE = {
    "llava": lambda tokenizer, template, _: t.LlavaProcessor(
        t.CLIPImageProcessorPil(**_SHORT), tokenizer, num_additional_image_tokens=1,
        **_LLAVA, **template,
    ),
    "llava-next": lambda tokenizer, template, _: t.LlavaNextProcessor(
        t.LlavaNextImageProcessorPil(**_SHORT, image_grid_pinpoints=_PINPOINTS), tokenizer,
        num_additional_image_tokens=1, **_LLAVA, **template,
    ),
    "llava-onevision": lambda tokenizer, template, _: t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_PINPOINTS),
        tokenizer, None, num_image_tokens=16, vision_feature_select_strategy="full", **template,
    ),
    "idefics3": lambda tokenizer, template, _: t.Idefics3Processor(
        t.Idefics3ImageProcessorPil(**_SPLIT), tokenizer, image_seq_len=4, **template
    ),
    "smolvlm": lambda tokenizer, template, _: t.SmolVLMProcessor(
        t.SmolVLMImageProcessorPil(**_SPLIT), tokenizer, SimpleNamespace(num_frames=8, fps=1),
        image_seq_len=4, **template,
    ),
    "internvl": lambda tokenizer, template, _: t.InternVLProcessor(
        t.GotOcr2ImageProcessorPil(size=_SQUARE, crop_to_patches=True, max_patches=4), tokenizer,
        None, image_seq_length=4, **template,
    ),
    "gemma3": lambda tokenizer, template, _: t.Gemma3Processor(
        t.Gemma3ImageProcessorPil(size=_SQUARE), tokenizer, image_seq_length=4, **template
    ),
    "qwen": lambda tokenizer, template, name: _QWEN[name](
        t.Qwen2VLImageProcessorPil(**_GRID), tokenizer, None, **template
    ),
}  # fmt: skip
_QWEN = {
    "qwen2-vl": t.Qwen2VLProcessor, "qwen2.5-vl": t.Qwen2_5_VLProcessor,
    "qwen3-vl": t.Qwen3VLProcessor,
}  # fmt: skip


def picture(seed: int = 0, width: int = 30, height: int = 20) -> Image.Image:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
