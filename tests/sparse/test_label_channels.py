"""Double sparsity's label channels: found, kept in files, scored in 4 bits."""

from __future__ import annotations

import json

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.kernels.selection.label_scores import score_labels, update_labels
from specdec.sparse.scorers.base import Memo
from specdec.sparse.scorers.channel_calibration import calibrate
from specdec.sparse.scorers.channel_order import FORMAT
from specdec.sparse.scorers.label_channels import LabelChannels

from helpers import hostile, models
from helpers.sparse_texts import NEW, PROMPTS, SMALL

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


def test_label_channels_of_a_file(llama, tmp_path, monkeypatch):
    """Calibrated by |q k| on some text, saved, read again, refused for another model."""
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "cache"))
    order = calibrate(llama.target, PROMPTS[0], "a text")
    heads, dim = models.build("llama").config.num_key_value_heads, 8
    assert [layer.shape for layer in order.layers] == [(heads, dim)] * llama.target.num_layers
    assert all((layer.sort(-1).values == torch.arange(dim)).all() for layer in order.layers)
    file = tmp_path / "channels.json"
    order.save(file)
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    kwargs = {"drafter": "double-sparsity", "max_new_tokens": NEW, **SMALL}
    for channels in (str(file), file, "prompt", "text", order):
        out = llama.generate(PROMPTS, channels=channels, **kwargs)
        assert [g.token_ids for g in out] == [g.token_ids for g in want]
    (kept,) = (tmp_path / "cache" / "channels").iterdir()
    assert kept.name == order.fingerprint and (kept / "channels.json").exists()
    part = tmp_path / "part.json"
    part.write_text(json.dumps({"format": FORMAT, "layers": []}))
    other = Engine(models.build("llama", seed=1), hostile.tokenizer(models.VOCAB))
    for message, engine, channels in [
        ("was made for another model", other, file),
        ("cannot be read .No such file", llama, tmp_path / "none.json"),
        ("is not a channel file", llama, __file__),
        ("is incomplete", llama, part),
        ("'text' needs a tokenizer", Engine(models.build("llama")), "text"),
    ]:
        with pytest.raises(InvalidArgument, match=message):
            engine.generate(PROMPTS, channels=channels, **kwargs)
    with pytest.raises(InvalidArgument, match="has no use for channels"):
        llama.generate(PROMPTS, drafter="quest", channels="text")


def test_calibration_finds_the_channels_that_count(llama):
    """The first channels are those with the largest mean |q k|, by a pass of transformers' own."""
    model = models.build("llama")
    known = {}
    for layer, block in enumerate(model.model.layers):
        attention = block.self_attn
        attention.q_proj.register_forward_hook(lambda m, i, o, n=layer: known.update({("q", n): o}))
        attention.k_proj.register_forward_hook(lambda m, i, o, n=layer: known.update({("k", n): o}))
    with torch.inference_mode():
        model(torch.tensor([PROMPTS[0]]), use_cache=False)
        places = torch.arange(len(PROMPTS[0]))[None]
        cos, sin = model.model.rotary_emb(known["q", 0], places)
    order = calibrate(llama.target, PROMPTS[0], "a text")
    for layer in range(2):
        q, k = (known[name, layer][0].unflatten(-1, (-1, 8)).transpose(0, 1)[None] for name in "qk")
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        product = (q[0].unflatten(0, (2, 2)) * k[0][:, None]).abs().mean(dim=(1, 2))
        ranked = product.gather(1, order.layers[layer])
        assert (ranked[:, :-1] >= ranked[:, 1:] - 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_labels_in_4_bits_are_those_of_the_kernel(dtype):
    """The same channels, codes and scores, up to the kernel's sums in float32."""
    torch.manual_seed(0)
    heads, tokens, dim = 2, 30, 16
    k, q = torch.randn(heads, tokens, 1, dim).to(dtype), torch.randn(heads, 3, dim).to(dtype)
    scorer, memo = LabelChannels(9, bits=4), Memo()
    summary = scorer.summarize(k, memo)
    channels = memo.channels[None].int()
    assert channels.shape == (1, 2, 8) and summary.shape[-1] == 4 + 2 * k.element_size()
    labels = torch.zeros(1, heads, tokens, 4, dtype=torch.uint8)
    scales = torch.zeros(1, heads, tokens, 2, dtype=dtype)
    keys, zero, length = k[None, :, :, 0], torch.tensor([0]).int(), torch.tensor([tokens]).int()
    update_labels.plain(labels, keys, channels, zero, length, tokens=tokens, scales=scales)
    assert torch.equal(summary[..., :4], labels[0])
    logits = scorer.logits(q, summary, 0.5, memo).amax(1)
    want = score_labels.plain(q[None], labels, channels, length, zero, scales)[0] * 0.5
    torch.testing.assert_close(
        logits.float(), want, rtol=3e-2, atol=6e-2 if dtype == torch.bfloat16 else 1e-5
    )
    with pytest.raises(InvalidArgument, match="label_bits=8: give 4, or 16"):
        LabelChannels(bits=8)


def test_label_bits_is_an_option(llama):
    kwargs = {
        "drafter": "double-sparsity",
        "max_new_tokens": 20,
        "budget": 12,
        "sink": 2,
        "recent": 2,
    }
    want = llama.generate(PROMPTS, max_new_tokens=20, drafter="none")
    for bits in (4, 16):
        got = llama.generate(PROMPTS, label_bits=bits, **kwargs)
        assert [g.token_ids for g in got] == [g.token_ids for g in want]
    with pytest.raises(InvalidArgument, match="label_bits=3"):
        llama.generate(PROMPTS, label_bits=3, **kwargs)
