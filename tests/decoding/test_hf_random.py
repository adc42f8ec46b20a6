"""Random settings together, on ragged batches: the adapter's tensors are transformers' own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import specdec

from helpers import hostile, models

pytestmark = pytest.mark.fast

SETTINGS: dict[str, list[Any]] = {
    "repetition_penalty": [1.2, 0.7], "no_repeat_ngram_size": [2, 3],
    "bad_words_ids": [[[3], [4, 5]]], "suppress_tokens": [[1, 2]], "begin_suppress_tokens": [[7]],
    "forced_bos_token_id": [8], "forced_eos_token_id": [9], "min_new_tokens": [3],
    "exponential_decay_length_penalty": [(2, 1.2)], "sequence_bias": [[[[5], 3.0]], {(6,): 4.0}],
    "min_length": [9], "eos_token_id": [9, [3, 7, 11, 15, 20, 25, 30]], "pad_token_id": [0, 39],
    "max_length": [12, 18], "renormalize_logits": [True], "remove_invalid_values": [True],
    "use_cache": [False, True], "cache_implementation": ["dynamic", "static"], "top_h": [0.5],
    "encoder_repetition_penalty": [1.3], "encoder_no_repeat_ngram_size": [2], "max_time": [600.0],
    "watermarking_config": [{"bias": 2.0}], "length_penalty": [2.0], "temperature": [0.7],
    "prefix_allowed_tokens_fn": [lambda row, ids: list(range(row, 40, 2))],
}  # fmt: skip
DRAFTERS = ["none", "ngram", "auto", hostile.RandomTrees, hostile.Bushy]


@pytest.fixture(scope="module")
def targets():
    return [models.build(name, dtype=torch.float32) for name in ("llama", "gemma3", "mistral")]


@pytest.mark.filterwarnings("ignore::UserWarning")  # transformers' own advice
@pytest.mark.parametrize("seed", range(24))
def test_random_settings(targets, seed):
    rng = random.Random(seed)
    model, rows, length = rng.choice(targets), rng.choice([1, 2, 3]), rng.randint(1, 10)
    ids = torch.tensor([[rng.randrange(40) for _ in range(length)] for _ in range(rows)])
    mask = torch.ones_like(ids)
    for row in mask if rows > 1 else ():
        row[: rng.randrange(length)] = 0
    names = rng.sample(sorted(SETTINGS), rng.randint(1, 5))
    kwargs = {"max_new_tokens": rng.choice([1, 6, 12]), "pad_token_id": 0, "do_sample": False}
    kwargs |= {name: rng.choice(SETTINGS[name]) for name in names}
    if "max_length" in kwargs:
        del kwargs["max_new_tokens"]
    if "exponential_decay_length_penalty" in kwargs:
        kwargs.setdefault("eos_token_id", 9)
    stock = model.generate(ids, attention_mask=mask, **kwargs)
    ours = model.generate(
        ids, attention_mask=mask, custom_generate=specdec.hf.generate,
        drafter=rng.choice(DRAFTERS), **kwargs,
    )  # fmt: skip
    assert torch.equal(stock, ours), names
