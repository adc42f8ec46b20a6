"""The Block Transformer as a drafter: its shapes, its law, and that it cannot change the text."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import DynamicCache

from specdec import Engine
from specdec.drafts.block.checkpoint import load, save
from specdec.errors import InvalidArgument, WeightsError

from helpers import block_models, models

CONFIG = block_models.config(40)
PROMPTS = [[(7 * i * i + 3) % 40 for i in range(n)] for n in (30, 17, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("block")
    save(block_models.build(40), CONFIG, where)
    return where


@torch.inference_mode()
def test_a_token_sees_the_blocks_before_its_own_and_its_blocks_tokens(folder):
    """The law p(x_t) = p(x_t | state of the blocks before, tokens of its block before it)."""
    model, text = load(folder).double(), torch.tensor(PROMPTS[0][:12]).view(3, 4)
    cache = DynamicCache()
    states = model.states(text, cache)
    assert states.shape == (3, 32) and cache.get_seq_length() == 3

    def logits(blocks, begun):
        return model.token_decoder(model.states(blocks, DynamicCache())[-1], begun)

    begun = torch.tensor([5, 6])
    want = logits(text, begun)
    assert want.shape == (40,)
    one_by_one = DynamicCache()
    stepped = [model.states(block[None], one_by_one)[0] for block in text]
    torch.testing.assert_close(torch.stack(stepped), states)
    for block in range(3):
        for place in range(4):
            other = text.clone()
            other[block, place] += 1
            assert (logits(other, begun) - want).abs().max() > 1e-6  # it sees all of them
            assert torch.equal(model.states(other, DynamicCache())[:block],
                               model.states(text, DynamicCache())[:block])  # fmt: skip
    assert (logits(text, torch.tensor([4, 6])) - want).abs().max() > 1e-6
    # Released names, by which their checkpoints load.
    assert {"embedder.embeddings.weight", "block_decoder.gpt_neox.final_layer_norm.bias",
            "token_decoder.expansion_layer.weight", "token_decoder.embed_out.weight",
            "token_decoder.gpt_neox.layers.1.attention.query_key_value.weight",
            } <= model.state_dict().keys()  # fmt: skip


@pytest.mark.parametrize("mode", ["greedy", "coupled", "samples"])
def test_drafts_losslessly(folder, mode):
    engine = Engine(models.build("llama"))
    how = {"max_new_tokens": 20, "eos_token_id": []}
    if mode != "greedy":
        how |= {"temperature": 0.9, "seed": 3}
    if mode == "samples":
        how["num_return_sequences"] = 2
    want = engine.generate(PROMPTS, drafter="none", **how)
    got = engine.generate(PROMPTS, drafter="block", draft_model=str(folder), **how)
    assert [x.token_ids for x in got] == [x.token_ids for x in want]
    assert all(x.lossless and x.stats.num_draft_tokens for x in got)


@torch.inference_mode()
def test_it_drafts_what_the_model_alone_would_say(folder):
    """Greedy drafts are the model's own text: padded at the start, block after block."""
    from types import SimpleNamespace

    from specdec.drafts.block.drafter import BlockDrafter
    from specdec.drafts.methods.block import BlockOptions

    target = SimpleNamespace(device="cpu", dtype=torch.float64, vocab_size=40)
    drafter = BlockDrafter(target, BlockOptions(draft_model=str(folder), num_draft_tokens=9))
    row = SimpleNamespace(index=0, tokens=list(PROMPTS[1]), num_prompt_tokens=17)
    drafter.join([row], None)
    model, size = drafter.model, 4

    def alone(tokens, count):
        text, out = [0] * (-17 % size) + tokens, []
        for _ in range(count):
            whole = len(text) // size * size
            states = model.states(torch.tensor(text[:whole]).view(-1, size), DynamicCache())
            begun = torch.tensor(text[whole:], dtype=torch.long)
            out.append(int(model.token_decoder(states[-1], begun).argmax()))
            text.append(out[-1])
        return out

    for more in ([], [3, 4], [5], [7] * 6):  # as if the target had said something else
        row.tokens += more
        (tree,) = drafter.propose([row], [9])
        assert tree.tokens[1:] == alone(row.tokens, 9)


def test_others_are_refused(folder, tmp_path):
    engine = Engine(models.build("llama"))
    for change, error, message in (
        ({"model_type": "llama"}, InvalidArgument, "not a Block"),
        ({"more": 1}, WeightsError, "nothing else"),
        ({"prefix": 3}, WeightsError, "cannot be read"),
    ):
        save(block_models.build(40), CONFIG, tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(error, match=message):
            engine.generate(PROMPTS, drafter="block", draft_model=str(tmp_path), max_new_tokens=4)
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / "none")
    with pytest.raises(InvalidArgument, match="takes a folder"):
        load(torch.nn.Linear(1, 1))
