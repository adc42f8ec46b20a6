"""Architectures without a test of their own are compared with transformers before they are used."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from transformers import AttentionInterface

from specdec import Engine
from specdec.errors import UnsupportedModel
from specdec.forward import attention

pytestmark = pytest.mark.fast

_SMALL = dict(
    vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=2048, eos_token_id=None, bos_token_id=None, pad_token_id=None,
)  # fmt: skip


def model_of(name, **changes):
    torch.manual_seed(0)
    config = getattr(t, f"{name}Config")(**{**_SMALL, **changes})
    model = getattr(t, f"{name}ForCausalLM")._from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model.double().eval()


def test_windows_are_honoured():
    """Short ones are tried out, of long ones attention has to be told."""
    for window in (6, 900):
        model = model_of("Starcoder2", sliding_window=window, num_key_value_heads=2)
        ids = torch.arange(20).remainder(40)[None]
        want = model.generate(ids, max_new_tokens=8, do_sample=False)[0, 20:].tolist()
        assert Engine(model).generate(ids[0], max_new_tokens=8).token_ids == want


def forgetful(module, *args, sliding_window=None, **kwargs):
    return attention.attention(module, *args, **kwargs)


@pytest.mark.parametrize(("window", "why"), [(6, "differs"), (100, "differs"), (900, "not told")])
def test_a_window_that_comes_only_with_the_mask(monkeypatch, window, why):
    """Behind eight tokens, and behind what can be tried out."""
    model = model_of("Starcoder2", sliding_window=window, num_key_value_heads=2)
    monkeypatch.setattr(
        attention, "register", lambda: AttentionInterface.register(attention.NAME, forgetful)
    )
    try:
        with pytest.raises(UnsupportedModel, match=why):
            Engine(model)
    finally:
        monkeypatch.undo()
        attention.register()
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"is_causal": False}, "is_causal=False"),
        ({"dropout": 0.1}, "eval"),
        ({"attention_mask": torch.zeros(1, 1, 1, 1)}, "attention_mask"),
        ({"indices": torch.zeros(1)}, "indices"),
        ({"a_name_of_a_later_release": 2.0}, "a_name_of_a_later_release=2.0"),
    ],
    ids=str,
)
def test_what_attention_is_asked_for_beside_what_we_know(monkeypatch, given, named):
    model = model_of("Llama")
    mask, others = given.pop("attention_mask", None), given

    def asks(module, query, key, value, _, **kwargs):
        return attention.attention(module, query, key, value, mask, **{**kwargs, **others})

    engine = Engine(model)
    AttentionInterface.register(attention.NAME, asks)
    try:
        with pytest.raises(UnsupportedModel, match=named):
            engine.generate([1, 2, 3], max_new_tokens=2)
    finally:
        attention.register()
    assert engine.generate([1, 2, 3], max_new_tokens=2).token_ids
