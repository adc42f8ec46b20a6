"""`model.generate` beside itself with our adapter, on a batch padded on the left."""

from __future__ import annotations

import string
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import specdec

IDS = torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 7, 8]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def both(
    model: PreTrainedModel,
    ids: torch.Tensor = IDS,
    mask: torch.Tensor | None = MASK,
    drafter: Any = "ngram",
    **kwargs: Any,
) -> tuple[Any, Any]:
    """What transformers returns, and what it returns through the adapter."""
    kwargs = {"attention_mask": mask, "max_new_tokens": 16, **kwargs}
    stock = model.generate(ids, **kwargs)
    ours = model.generate(ids, custom_generate=specdec.hf.generate, drafter=drafter, **kwargs)
    return stock, ours


def characters(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer of one token for each of so many characters, letters first."""
    chars = (string.ascii_lowercase + string.digits + string.punctuation)[:count]
    bare = Tokenizer(WordLevel({c: i for i, c in enumerate(chars)}, unk_token=chars[0]))
    bare.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    bare.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=bare, clean_up_tokenization_spaces=False)
