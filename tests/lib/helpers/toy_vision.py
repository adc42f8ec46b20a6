"""A tiny toy that sees: a random text model, a tokenizer of a few words, a small tower."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from specdec.bench.toy.language import Language
from specdec.bench.toy.pictures import Pictures
from specdec.bench.toy.stages import School
from specdec.loading import demo_vision

from helpers.models import build

WORDS = ("a", "of", "to", "is", "in", "it")
TOWER = {
    **demo_vision.TOWER, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
}  # fmt: skip


@cache
def tokenizer() -> Any:
    """Bytes, and these words with and without a space before them."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("o", "f"), ("t", "o"), ("i", "s"), ("i", "n"), ("i", "t")]
    merges += [("Ġ", word) for word in WORDS]
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", demo_vision.IMAGE_TOKEN]
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": special})
    return made


def school(seed: int = 0) -> School:
    """Everything new, from one seed."""
    words = tokenizer()
    text: Any = build("llama", seed, torch.float32, len(words)).requires_grad_(False)
    text.generation_config.eos_token_id = words.eos_token_id
    text.generation_config.pad_token_id = 0
    torch.manual_seed(seed)
    language = Language(WORDS, words, text.get_input_embeddings().weight)
    pictures = Pictures(WORDS, None, seed)
    model = demo_vision.with_eyes(text, words, TOWER)
    return School(model, text, words, demo_vision.image_processor(), language, pictures)


def easy_vqa(path: Path) -> Path:
    """A wheel with the shape of easy-vqa's, of two pictures a part."""
    questions = [
        ["what color is the shape?", "red", 0],
        ["is there a circle?", "yes", 0],
        ["is there a blue shape?", "no", 0],
        ["is there not a triangle?", "yes", 0],
        ["is there a rectangle?", "no", 1],
        ["what shape is present?", "triangle", 1],
    ]
    with zipfile.ZipFile(path, "w") as wheel:
        for part in ("train", "test"):
            wheel.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(questions))
            for number in (0, 1):
                data = BytesIO()
                Image.new("RGB", (64, 64), (255, 255, 255)).save(data, "png")
                wheel.writestr(f"easy_vqa/data/{part}/images/{number}.png", data.getvalue())
    return path
