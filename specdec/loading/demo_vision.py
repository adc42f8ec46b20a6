"""demo-vision: the demo model with eyes, a toy; transformers' own LLaVA class around it.

The text model is "demo", unchanged. A small CLIP tower and LLaVA's projector were trained for it by
`specdec train-vision` and ship with the package; `weights/demo-vision.md` says what they can do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig, PreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.modeling_llava import (
    LlavaForConditionalGeneration,
    LlavaMultiModalProjector,
)
from transformers.models.llava.processing_llava import LlavaProcessor

from specdec.errors import WeightsError

NAME = "a toy tower, trained here,"
WEIGHTS = Path(__file__).parent / "weights" / "demo-vision.safetensors"
SIDE, PATCH = 128, 16  # pixels: an image is 8 x 8 tokens, in reading order
IMAGE_TOKEN = "<empty_output>"  # a token of the demo's vocabulary that no text needs
TOWER = {
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "projection_dim": 256,
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + IMAGE_TOKEN + "\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ raise_exception('demo-vision reads images and text, no ' + part['type']) }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def with_eyes(text: PreTrainedModel, tokenizer: Any, tower: dict[str, Any]) -> PreTrainedModel:
    """LLaVA of a causal LM, whose modules it takes over, and a new tower with random weights.

    tower: options of CLIPVisionConfig.
    """
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower),
        text_config=text.config,
        image_token_index=image_token_id(tokenizer),
        image_seq_length=(tower["image_size"] // tower["patch_size"]) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=bool(text.config.tie_word_embeddings),
    )
    with torch.device("meta"):  # only the frame: its parts are put in below
        model: Any = LlavaForConditionalGeneration(config)
    parts: Any = text
    model.lm_head = parts.lm_head
    model.model.language_model = parts.model
    model.model.vision_tower = CLIPVisionModel(model.config.vision_config)
    model.model.multi_modal_projector = LlavaMultiModalProjector(model.config)
    model.generation_config = text.generation_config
    return model.eval()


def image_token_id(tokenizer: Any) -> int:
    """The id that stands for a token of an image."""
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def eyes(model: Any) -> dict[str, Tensor]:
    """The tensors of tower and projector, by name in the LLaVA model."""
    names = ("model.vision_tower.", "model.multi_modal_projector.")
    return {k: x for k, x in model.state_dict().items() if k.startswith(names)}


def put_in(model: Any, tensors: dict[str, Tensor], source: str) -> None:
    """Load tower and projector, all of them. Raises WeightsError for what does not fit."""
    wanted = {name: tuple(x.shape) for name, x in eyes(model).items()}
    found = {name: tuple(x.shape) for name, x in tensors.items()}
    if wrong := sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n)):
        raise WeightsError(
            f"{source} is not of this tower (the first of {len(wrong)} tensors that differ: "
            f"{wrong[0]}): train it again with `specdec train-vision`"
        )
    model.load_state_dict(tensors, strict=False)


def image_processor(side: int = SIDE) -> Any:
    """What makes pixels of pictures: any size becomes a square of `side` pixels."""
    square = {"height": side, "width": side}
    return CLIPImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def processor(tokenizer: Any, side: int = SIDE, patch: int = PATCH) -> Any:
    """The processor: chat messages with images to ids and pixels."""
    return LlavaProcessor(
        image_processor(side),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # CLIP's first, which is dropped
    )


def read(path: Path) -> dict[str, Tensor]:
    """Tower and projector from a file, in float32. Raises WeightsError if it cannot be read."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing: install specdec again, or train with train-vision")
    try:
        return {name: x.float() for name, x in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
