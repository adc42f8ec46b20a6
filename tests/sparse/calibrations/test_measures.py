"""What is measured of a model, against NumPy over the attention maps that transformers gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.errors import UnsupportedModel
from specdec.sparse.calibrations.copying import copying
from specdec.sparse.calibrations.key_change import key_change
from specdec.sparse.calibrations.passkeys import NAME, VALUE, Passkeys
from specdec.sparse.calibrations.query_entropy import query_entropy
from specdec.sparse.calibrations.semantic_heads import SMALL, WINDOW, semantic_heads
from specdec.sparse.calibrations.streaming_error import streaming_error
from specdec.sparse.maths.output_projection import output_projection

from helpers import models

TEXT = [(7 * i * i + 3) % 40 for i in range(256)]


@pytest.fixture(params=["llama", "llama-mha", "qwen3"])
def both(request):
    """A target, and the same model as it was, with attention maps to be asked for."""
    model = models.build(request.param, dtype=torch.float64)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    return Engine(model).target, plain


def maps(model, tokens):
    """Attention `[Hq, n, n]` and values by layer, logits `[n, V]`."""
    kept = {}
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(
            lambda m, a, out, n=n: kept.__setitem__(n, out[0].detach().numpy())
        )
        for n, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        out = model(torch.tensor([tokens]), output_attentions=True)
    for hook in hooks:
        hook.remove()
    heads = model.config.num_key_value_heads
    values = [kept[n].reshape(len(tokens), heads, -1).swapaxes(0, 1) for n in range(len(kept))]
    return [a[0].numpy() for a in out.attentions], values, out.logits[0].numpy()


def projected(model, layer, o):
    """`o[Hq, n, D]` through the output projection."""
    return (
        o.swapaxes(0, 1).reshape(o.shape[1], -1)
        @ model.model.layers[layer].self_attn.o_proj.weight.detach().numpy().T
    )


def test_the_output_projection_is_the_weight(both):
    target, plain = both
    config = plain.config
    got = output_projection(target, 1, config.num_attention_heads, config.head_dim, "x")
    want = plain.model.layers[1].self_attn.o_proj.weight.T
    torch.testing.assert_close(got.flatten(0, 1), want)
    with pytest.raises(UnsupportedModel, match="output projection"):
        output_projection(target, 1, config.num_attention_heads + 1, config.head_dim, "x")


def test_copying_heads_are_those_that_look_at_copies(both):
    target, plain = both
    found = copying(target, tokens=20, seed=3)
    drawn = torch.randint(40, (20,), generator=torch.Generator().manual_seed(3)).tolist()
    attention, _, _ = maps(plain, [drawn[0], *drawn * 4])
    for layer, a in enumerate(attention):
        asked = [p for p in range(0, 81, 8) if p > 20]
        copies = {p: [p - m for m in (20, 40, 60) if p - m > 0] for p in asked}
        echo = [sum(a[:, p, c] for c in copies[p]) for p in asked]
        induction = [sum(a[:, p, c + 1] for c in copies[p]) for p in asked]
        np.testing.assert_allclose(found[layer]["echo"], np.mean(echo, axis=0), rtol=1e-5)
        np.testing.assert_allclose(found[layer]["induction"], np.mean(induction, axis=0), rtol=1e-5)


def test_gates_are_what_streaming_loses(both):
    target, plain = both
    found = streaming_error(target, TEXT, 256, sink=8, recent=16)
    keys = Passkeys.hidden_in(TEXT, 40, 256)
    attention, values, _ = maps(plain, keys.tokens)
    asked = [p for answer in keys.answers for p in answer]
    group = plain.config.num_attention_heads // plain.config.num_key_value_heads
    for layer, a in enumerate(attention):
        v = np.repeat(values[layer], group, axis=0)
        near = np.array([[t < 8 or t > p - 16 for t in range(256)] for p in range(256)])
        short = a * near
        short /= short.sum(-1, keepdims=True)
        full, less = a @ v, short @ v
        whole = np.linalg.norm(projected(plain, layer, full)[asked])
        for h in range(values[layer].shape[0]):
            only = np.zeros_like(full)
            mine = slice(h * group, (h + 1) * group)
            only[mine] = (full - less)[mine]
            lost = np.linalg.norm(projected(plain, layer, only)[asked])
            np.testing.assert_allclose(found[layer]["gate"][h], lost / whole, rtol=1e-5)


def test_semantic_heads_look_at_what_is_being_said(both):
    target, plain = both
    found = semantic_heads(target, TEXT, 256)
    keys = Passkeys.hidden_in(TEXT, 40, 256)
    attention, values, logits = maps(plain, keys.tokens)
    first = keys.first_question
    group = plain.config.num_attention_heads // plain.config.num_key_value_heads
    said = [
        (p, span) for span, answer in zip(keys.spans, keys.answers, strict=True) for p in answer
    ]
    right = [(p, s) for p, s in said if logits[p].argmax() == keys.tokens[p + 1]] or said
    for layer, a in enumerate(attention):
        needle = np.mean([a[:, p, low:high].sum(-1) for p, (low, high) in right], axis=0)
        np.testing.assert_allclose(found[layer]["needle"], needle, rtol=1e-5)
        best = np.argsort(-needle)[:4]
        votes = a[best, first - WINDOW : first, :first].sum(axis=1).mean(axis=0)
        votes = np.array([votes[max(0, t - 2) : t + 3].mean() for t in range(first - WINDOW)])
        kept = np.ones(256, bool)
        kept[: first - WINDOW] = False
        kept[np.argsort(-votes)[:SMALL]] = True
        v = np.repeat(values[layer], group, axis=0)
        less = a * kept
        full, less = a @ v, less / less.sum(-1, keepdims=True) @ v
        change = np.linalg.norm(projected(plain, layer, full - less)[first:])
        whole = np.linalg.norm(projected(plain, layer, full)[first:])
        np.testing.assert_allclose(found[layer]["error"], [change / whole], rtol=1e-5)


def test_entropy_is_of_the_queries(both):
    target, plain = both
    found = query_entropy(target, TEXT, 120)
    assert all(len(x["entropy"]) == plain.config.num_attention_heads for x in found)
    assert all(0 < e <= 1 for x in found for e in x["entropy"])


def test_keys_change_where_less_is_read(both):
    """Against the model's own keys under a 4D mask of sinks and overlapping windows."""
    target, plain = both
    found = key_change(target, TEXT, 64)
    sink, window = 8, 16
    sums, count = np.zeros(2), 0
    whole = cached(plain, 64, lambda i, j: j <= i)
    for start in range(0, 64 - window + 1, window // 2):
        mine = set(range(min(sink, start))) | set(range(start, start + window))
        less = cached(plain, 64, lambda i, j, mine=mine: j <= i and (j in mine or j == i))
        new = range(start + window // 2 if start else 0, start + window)
        for n in range(2):
            a, b = whole[n][:, new], less[n][:, new]
            unit = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            sums[n] += ((a * b).sum(-1) / unit).mean(0).sum()
        count += len(new)
    for n in range(2):
        np.testing.assert_allclose(found[n]["similarity"], [sums[n] / count], rtol=1e-6)
    assert found[0]["similarity"][0] == pytest.approx(1)  # nothing is read before the first keys
    assert found[1]["similarity"][0] < 1 - 1e-6


def cached(model, length, sees):
    """Keys of each layer `[Hkv, n, D]`, where token i sees token j if `sees(i, j)`."""
    mask = torch.tensor([[sees(i, j) for j in range(length)] for i in range(length)])
    mask = torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    with torch.no_grad():
        out = model(torch.tensor([TEXT[:length]]), attention_mask=mask, use_cache=True)
    return [layer.keys[0].numpy() for layer in out.past_key_values.layers]


def test_passkeys_stand_where_they_are_said_to():
    keys = Passkeys.hidden_in(TEXT, 40, 1000)
    assert len(keys.tokens) == 1000
    assert len(keys.spans) == len(keys.answers) == 7
    for (low, high), answer in zip(keys.spans, keys.answers, strict=True):
        assert len(answer) == VALUE == high - low
        said = [keys.tokens[p + 1] for p in answer]
        assert said == keys.tokens[low:high]
        name = keys.tokens[low - NAME : low]
        assert name == keys.tokens[answer.start - NAME + 1 : answer.start + 1]
        assert keys.first_question <= answer.start - NAME + 1
