"""Passes through our store against transformers' own forward, for every architecture."""

from __future__ import annotations

import random

import pytest
import torch
import transformers

from specdec.decoding.cached_model import CachedModel
from specdec.errors import UnsupportedModel
from specdec.forward.full_view import FullView
from specdec.model import chunks
from specdec.model.take_up import take_up as target_of
from specdec.model.target import Target
from specdec.sampling.tree import ancestor_words

from helpers import models
from helpers.passes import Oracle, make_row, random_tree, take_up


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_passes_equal_stock_forward(name, dtype, monkeypatch):
    """Chunked prefill, single tokens, chains, trees and ragged rows, over several rounds."""
    monkeypatch.setattr(chunks, "PREFILL_CHUNK", 5)
    model = models.build(name, dtype=dtype)
    oracle, rng = Oracle(model), random.Random(name)
    target = Target(model)
    prompts = [[rng.randrange(models.VOCAB) for _ in range(n)] for n in (13, 1, 8)]
    rows = [make_row(i, prompt) for i, prompt in enumerate(prompts)]
    cached = CachedModel(target, FullView(), rows)
    for nodes, chain in ((1, True), (6, True), (9, False), (1, False), (7, False)):
        active = rows if nodes != 7 else rows[1:]  # a row may drop out of the batch
        trees = [
            random_tree(rng, row.tokens[-1], max(1, nodes - row.index), chain) for row in active
        ]
        for row, tree, logits in zip(active, trees, cached.forward(active, trees), strict=True):
            oracle.check(row, tree, logits)
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(models.VOCAB))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
def test_one_prompt_many_rows(name):
    """Samples of one prompt share its level; their rows then go ways of their own."""
    model = models.build(name)
    oracle, rng = Oracle(model), random.Random(1)
    prompts = [[rng.randrange(models.VOCAB) for _ in range(n)] for n in (9, 4)]
    rows = [make_row(2 * p + s, prompts[p], p) for p in range(2) for s in range(2)]
    cached = CachedModel(Target(model), FullView(), rows)
    assert [level.rows for level in cached.store.levels] == [2, 4]
    for nodes in (1, 5, 3):
        trees = [random_tree(rng, row.tokens[-1], nodes + row.index) for row in rows]
        for row, tree, logits in zip(rows, trees, cached.forward(rows, trees), strict=True):
            oracle.check(row, tree, logits)
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(models.VOCAB))


def test_wide_tree():
    """More nodes than one word of the bitmask holds."""
    model = models.build("llama")
    oracle, rng = Oracle(model), random.Random(2)
    row = make_row(0, [3, 1, 4, 1, 5])
    tree = random_tree(rng, 5, 131)
    (logits,) = CachedModel(Target(model), FullView(), [row]).forward([row], [tree])
    oracle.check(row, tree, logits)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_growing_a_tree_and_taking_tokens_back(name):
    """Nodes staged by later passes see the earlier ones; provisional tokens leave no trace."""
    model = models.build(name)
    oracle, rng = Oracle(model), random.Random(3)
    rows = [make_row(0, [1, 2, 3, 4, 5, 6]), make_row(1, [7, 8])]
    cached = CachedModel(Target(model), FullView(), rows)
    for _ in range(4):
        trees = [random_tree(rng, row.tokens[-1], 2 + row.index) for row in rows]
        logits = [list(x) for x in cached.forward(rows, trees)]
        slots = [[cached.root_slot(row) + i for i in range(len(t))] for row, t in zip(rows, trees)]
        for _ in range(2):
            grown = []
            for row, tree, place in zip(rows, trees, slots):
                new = []
                for _ in range(1 + row.index):
                    parent = rng.randrange(len(place))
                    before = len(tree)
                    tree.add(parent, rng.randrange(models.VOCAB))
                    new.extend([parent] * (len(tree) - before))
                grown.append(new)
            tokens = [tree.tokens[len(place) :] for tree, place in zip(trees, slots)]
            parents = [[place[p] for p in new] for place, new in zip(slots, grown)]
            if not any(tokens):
                continue
            first, more = cached.grow(rows, tokens, parents)
            for place, new, old, fresh in zip(slots, tokens, logits, more):
                place.extend(range(first, first + len(new)))
                old.extend(fresh[: len(new)])
        for row, tree, out in zip(rows, trees, logits):
            oracle.check(row, tree, torch.stack(out))
            # provisional: taken up, perhaps read, and taken back in the next round
            stable = row.num_final
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(models.VOCAB))
            row.num_final = stable
        trees = [random_tree(rng, row.tokens[-1], 3) for row in rows]
        for row, tree, out in zip(rows, trees, cached.forward(rows, trees)):
            oracle.check(row, tree, out)
            del row.tokens[row.num_final + rng.randrange(2) :]
            row.tokens.append(rng.randrange(models.VOCAB))
            row.num_final = len(row.tokens)


def test_option_a_agrees():
    """The other way to verify a tree: stock SDPA, a 4D mask and transformers' own cache."""
    model = models.build("qwen3")
    model.set_attn_implementation("sdpa")
    rng = random.Random(4)
    prompt = [rng.randrange(models.VOCAB) for _ in range(11)]
    tree = random_tree(rng, prompt[-1], 12)
    cache = transformers.DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([prompt[:-1]]), past_key_values=cache, use_cache=True)
        words = ancestor_words([tree.parents], len(tree))[0, :, 0]
        corner = (words[:, None] >> torch.arange(len(tree)) & 1).bool()
        mask = torch.cat([torch.ones(len(tree), 10, dtype=torch.bool), corner], dim=1)
        stock = model(
            input_ids=torch.tensor([tree.tokens]),
            position_ids=torch.tensor([[10 + d for d in tree.depths()]]),
            attention_mask=mask[None, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[0]
    row = make_row(0, prompt)
    (ours,) = CachedModel(Target(model), FullView(), [row]).forward([row], [tree])
    torch.testing.assert_close(ours, stock, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
@torch.inference_mode()
def test_poisoned_slots_are_never_read(name):
    """Invariant 1: what lies behind the committed length must not reach the output.

    The slot right behind it is the last root's, which the next round commits.
    """
    model = models.build(name)
    oracle, rng = Oracle(model), random.Random(5)
    rows = [make_row(0, [1, 2, 3, 4, 5, 6, 7]), make_row(1, [7, 8])]
    cached = CachedModel(Target(model), FullView(), rows)
    for _ in range(3):
        for level in cached.store.levels:
            for buffer in (*level.k, *level.v):
                if buffer is not None:
                    for row, length in enumerate(level.length.tolist()):
                        buffer[row, :, length + 1 :] = torch.nan
        trees = [random_tree(rng, row.tokens[-1], 4) for row in rows]
        for row, tree, logits in zip(rows, trees, cached.forward(rows, trees)):
            oracle.check(row, tree, logits)
            row.tokens.append(rng.randrange(models.VOCAB))  # nothing was accepted
            row.num_final = len(row.tokens)


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_packed_models(name):
    """Packed weights and fused layers give the same logits, and restoring gives the model back."""
    model = models.build(name, dtype=torch.float32)
    model.tie_weights()
    oracle, rng = Oracle(model), random.Random(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    target = target_of(model)
    packing = target.packing
    assert set(packing.fused) == ({*range(target.num_layers)} if name in FUSED else set())
    rows = [
        make_row(i, [rng.randrange(models.VOCAB) for _ in range(n)]) for i, n in enumerate((9, 3))
    ]
    cached = CachedModel(target, FullView(), rows)
    for nodes in (1, 6, 1, 11):
        trees = [random_tree(rng, row.tokens[-1], max(1, nodes - row.index)) for row in rows]
        for row, tree, logits in zip(rows, trees, cached.forward(rows, trees)):
            oracle.check(row, tree, logits)
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(models.VOCAB))
    packing.restore()
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


# mixtures of experts keep their own forward; so does gpt-oss, whose biases and sinks are in them
FUSED = set(models.ARCHITECTURES) - {"gpt-oss", "mixtral", "qwen3-moe"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            transformers.MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1),
            "rolled back",
        ),
        (
            transformers.DeepseekV3Config(
                vocab_size=8, hidden_size=16, intermediate_size=16, moe_intermediate_size=8,
                num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=8,
                kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
                n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2,
            ),
            "latent",
        ),
        (
            transformers.Qwen3NextConfig(
                vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=4,
                num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=2,
                num_experts_per_tok=1, moe_intermediate_size=8, shared_expert_intermediate_size=8,
                linear_num_key_heads=1, linear_num_value_heads=1, linear_key_head_dim=8,
                linear_value_head_dim=8,
            ),
            "linear_attention",
        ),
        (transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2), "GPT2|differs"),
    ],
    ids=["recurrent", "latent", "hybrid", "gpt2"],
)  # fmt: skip
def test_models_that_cannot_be_driven_are_refused(config, reason):
    model = transformers.AutoModelForCausalLM.from_config(config)
    if config.model_type == "gpt2":
        target_of(model)  # learned positions, same attention: taken, after a comparison at load
        return
    with pytest.raises(UnsupportedModel, match=reason):
        target_of(model)


def test_a_model_whose_attention_is_not_told_of_the_pass_is_refused():
    config = transformers.StableLmConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=None,
    )  # fmt: skip
    model = transformers.StableLmForCausalLM(config).eval()
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModel, match="StableLmForCausalLM does not hand on"):
        target_of(model)
    assert model.config._attn_implementation == before
