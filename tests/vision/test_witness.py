"""Families that the code does not know by name, and what cannot be followed."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as t

from specdec import Engine
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.vision.reading import read_processed

from helpers import vision
from helpers.vision import IMAGE, TEXT

NEW = 8
_SQUARE = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    image_size=16, patch_size=4,
)  # fmt: skip
_PLAIN = {key: x for key, x in TEXT.items() if key != "head_dim"}
_GRID = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_IDS = dict(
    image_token_id=IMAGE, video_token_id=10, image_start_token_id=11, image_end_token_id=12,
    video_start_token_id=13, video_end_token_id=14,
)  # fmt: skip

# name -> (class, config, tokens of an image)
OTHERS = {
    "mistral3": lambda: (
        t.Mistral3ForConditionalGeneration,
        t.Mistral3Config(
            vision_config=t.PixtralVisionConfig(**_SQUARE), text_config=t.MistralConfig(**TEXT),
            image_token_index=IMAGE, spatial_merge_size=2,
        ),
        4,
    ),
    "aya-vision": lambda: (
        t.AyaVisionForConditionalGeneration,
        t.AyaVisionConfig(
            vision_config=t.SiglipVisionConfig(**_SQUARE), text_config=t.CohereConfig(**_PLAIN),
            image_token_index=IMAGE, downsample_factor=2, adapter_layer_norm_eps=1e-6,
        ),
        4,
    ),
    "cohere2-vision": lambda: (
        t.Cohere2VisionForConditionalGeneration,
        t.Cohere2VisionConfig(
            vision_config=t.SiglipVisionConfig(**_SQUARE), text_config=t.Cohere2Config(**_PLAIN),
            image_token_id=IMAGE, downsample_factor=2,
        ),
        4,
    ),
    "vip-llava": lambda: (
        t.VipLlavaForConditionalGeneration,
        t.VipLlavaConfig(
            vision_config=t.CLIPVisionConfig(**_SQUARE), text_config=t.LlamaConfig(**TEXT),
            image_token_index=IMAGE, vision_feature_layers=[-1, -2],
        ),
        16,
    ),
    "glm4v": lambda: (
        t.Glm4vForConditionalGeneration,
        t.Glm4vConfig(
            vision_config=dict(
                depth=1, hidden_size=16, intermediate_size=16, out_hidden_size=32, num_heads=2,
                patch_size=4, image_size=16,
            ),
            text_config={**TEXT, "rope_parameters": {**_GRID, "partial_rotary_factor": 1.0}},
            **_IDS,
        ),
        6,
    ),
}  # fmt: skip


def built(name):
    torch.manual_seed(0)
    kind, config, tokens = OTHERS[name]()
    model = kind._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return model.double().eval(), tokens


def asked(name, tokens, seed):
    random = torch.Generator().manual_seed(seed)
    ids = torch.tensor([[5, 7, 11, *[IMAGE] * tokens, 3, 4, 8]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "glm4v":
        given["mm_token_type_ids"] = (ids == IMAGE).long()
        given["image_grid_thw"] = torch.tensor([[1, 4, 6]])
        return {**given, "pixel_values": torch.randn(24, 96, generator=random).double()}
    if name == "mistral3":
        given["image_sizes"] = torch.tensor([[16, 16]])
    return {**given, "pixel_values": torch.randn(1, 3, 16, 16, generator=random).double()}


@pytest.mark.parametrize("name", OTHERS)
def test_a_family_that_nobody_has_named(name):
    model, tokens = built(name)
    rows = [asked(name, tokens, seed) for seed in range(2)]
    wanted = [
        model.generate(**row, max_new_tokens=NEW, do_sample=False)[0, tokens + 6 :].tolist()
        for row in rows
    ]
    found = Engine(copy.deepcopy(model)).generate(
        rows, max_new_tokens=NEW, ignore_eos=True, drafter="ngram"
    )
    assert [x.token_ids for x in found] == wanted and len(wanted[0]) == NEW


def test_what_is_handed_over_and_not_understood_is_named(pair_of):
    model = pair_of("llava").engine.model
    decoder = model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "gates": torch.ones(1)}), with_kwargs=True
    )
    with pytest.raises(UnsupportedModel, match="gives its text part gates"):
        read_processed(vision.inputs("llava"), model)
    hook.remove()
    assert read_processed(vision.inputs("llava"), model)


def test_a_prompt_that_is_read_in_both_directions(pair_of):
    model = pair_of("gemma3").engine.model
    row = vision.inputs("gemma3")
    row["token_type_ids"] = torch.ones_like(row["input_ids"])
    with pytest.raises(UnsupportedModel, match="whole prompt in both directions"):
        read_processed(row, model)
    assert model.config.text_config._attn_implementation == "specdec"


def test_blocks_that_touch_are_spans_of_their_own(pair_of):
    """Two runs of tokens that see each other, also of text: what the mask says counts."""
    pair = pair_of("gemma3")
    row = vision.inputs("gemma3", images=(0, 1))
    types = row["token_type_ids"].clone()
    types[0, 1] = 1  # a token of text, alone: it sees nobody more
    types[0, 7] = 1  # and one behind the first image, which joins it
    row["token_type_ids"] = types
    (prompt,) = read_processed(row, pair.engine.model)
    assert [(s.start, s.end, s.bidirectional) for s in prompt.spans][0] == (3, 8, True)
    found = pair.engine.generate(prompt, max_new_tokens=NEW, ignore_eos=True)
    assert found.token_ids == pair.text(row, NEW)


def test_ids_outside_the_vocabulary(pair_of):
    row = vision.inputs("llava")
    row["input_ids"][0, 0] = 40
    with pytest.raises(InvalidArgument, match="hold 40, which is no token id from 0 to 39"):
        pair_of("llava").engine.generate(row)


def test_a_row_with_a_gap(pair_of):
    row = vision.inputs("llava")
    row["attention_mask"][0, 1] = 0
    with pytest.raises(InvalidArgument, match="has a gap"):
        pair_of("llava").engine.generate(row)
