"""The quantised view: drafts from it never change the text, and its copy follows the store."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.cache.store import KVStore
from specdec.errors import InvalidArgument
from specdec.kernels.cache.quantize_kv import QuantizedKV, dequantize, quantize_kv
from specdec.sparse.codecs.coded_copy import CodedCopy, CopyKind
from specdec.sparse.codecs.packed import PackedGroups

from helpers import hostile, models
from helpers.dense import dense
from helpers.matrix import crossed

RNG = random.Random(0)
PROMPTS = [[RNG.randrange(models.VOCAB) for _ in range(n)] for n in (130, 67, 5, 96)]
NEW = 40  # so that groups of 32 fill while the text is written
MODES = {
    "greedy": {},
    "coupled": {"temperature": 0.9, "seed": 3},
    "samples": {"temperature": 0.9, "seed": 3, "num_return_sequences": 2},
}
KIVI = {"kv_group": 32, "recent": 4}


ARCHITECTURES = ["llama", "gemma3", "gpt-oss"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def engine(request):
    return Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@crossed(together=1, indirect=["engine"], engine=ARCHITECTURES, mode=MODES, bits=[2, 4, 8])
def test_drafts_losslessly(engine, mode, bits):
    """Ragged batches, samples that share a prompt, chains and trees, single levels and several."""
    kwargs = {"max_new_tokens": NEW, **MODES[mode]}
    want = engine.generate(PROMPTS, drafter="none", **kwargs)
    out = engine.generate(PROMPTS, drafter="kivi", draft_width=2, kv_bits=bits, **KIVI, **kwargs)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]
    assert all(g.lossless and g.drafter == "kivi" for g in out)
    chains = engine.generate(PROMPTS, drafter="kivi", kv_bits=bits, **KIVI, **kwargs)
    assert [g.token_ids for g in chains] == [g.token_ids for g in want]
    if bits == 8:
        assert min(g.stats.draft_acceptance_rate for g in chains) > 0.8


def test_rejection_and_nesting(llama):
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    for drafter in ("kivi", "ngram+kivi"):
        out = llama.generate(
            PROMPTS, drafter=drafter, acceptance="rejection", max_new_tokens=NEW, **KIVI
        )
        assert [g.token_ids for g in out] == [g.token_ids for g in want]
    sampled = {"acceptance": "rejection", "temperature": 1.0, "seed": 2, "max_new_tokens": NEW}
    first, again = (llama.generate(PROMPTS, drafter="kivi", **KIVI, **sampled) for _ in range(2))
    assert [g.token_ids for g in first] == [g.token_ids for g in again]


def test_as_a_view_it_is_lossy_and_close(llama):
    """Eight bits are nearer to the model's own text than four; neither claims to be it."""
    want = [g.token_ids for g in llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)]

    def agreement(**kwargs):
        out = llama.generate(PROMPTS, view="kivi", drafter="ngram", max_new_tokens=NEW, **kwargs)
        assert not any(g.lossless for g in out)
        alone = llama.generate(PROMPTS, view="kivi", drafter="none", max_new_tokens=NEW, **kwargs)
        assert [len(g.token_ids) for g in alone] == [NEW] * 4
        same = [sum(a == b for a, b in zip(g.token_ids, w)) for g, w in zip(alone, want)]
        return sum(same) / (4 * NEW)

    whole = agreement(kv_bits=4, kv_group=32, recent=200)  # nothing is old enough
    assert whole == 1.0
    assert agreement(kv_bits=8, **KIVI) > 0.5


def test_drafts_leave_the_store_alone(llama):
    """What a draft writes is dropped: NaN in it, and in what is not committed, reaches nothing."""
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    stream = llama.stream(PROMPTS, drafter="kivi", max_new_tokens=NEW, **KIVI)
    for _ in stream:
        draft, base = stream.drafter.drafter.model.store, stream.model.store
        with torch.inference_mode():
            for buffer in (*draft.levels[-1].k, *draft.levels[-1].v):
                buffer.fill_(torch.nan)
            for buffer in (*base.levels[-1].k, *base.levels[-1].v):
                for row, held in enumerate(stream.model.text.held):
                    buffer[row, :, len(held.tokens) + len(held.slots) :] = torch.nan
    assert [g.token_ids for g in stream.generations] == [g.token_ids for g in want]
    assert all(g.stats.num_accepted_draft_tokens for g in stream.generations)


def test_reads_are_counted(llama):
    """Every token, in the bytes of its copy once that covers it."""
    for bits, share in ((2, 0.4), (4, 0.45), (8, 0.7)):
        out = llama.generate(PROMPTS, drafter="kivi", kv_bits=bits, max_new_tokens=NEW, **KIVI)
        long, _, short, _ = (g.stats.reads["kivi"] for g in out)
        assert long.tokens == long.context and min(long.context) >= 129 and long.full_passes == 0
        for tokens, read, there in zip(long.tokens, long.bytes, long.full_bytes, strict=True):
            token = there / tokens
            covered = (tokens - KIVI["recent"]) // 32 * 32
            assert there - covered * token < read < there - (1 - share) * covered * token
        assert 0 < short.full_passes < short.passes  # 5 to 45 tokens
    shown = out[0].stats.to_dict()["reads"]["kivi"]
    assert shown["tokens_per_pass"] == shown["context_per_pass"]
    assert shown["bytes_per_pass"] < shown["full_bytes_per_pass"]
    both = llama.generate(PROMPTS, drafter="kivi", num_return_sequences=2, temperature=1.0,
                          max_new_tokens=NEW, **KIVI)  # fmt: skip
    assert all(0 < r.bytes[0] < r.full_bytes[0] for r in (g.stats.reads["kivi"] for g in both[:2]))


def test_bad_options(llama):
    for message, kwargs in {
        "kv_bits=3: give 2, 4 or 8": {"kv_bits": 3},
        "kv_group=48: give 32, 64 or 128": {"kv_group": 48},
        "has no use for budget": {"budget": 64},
    }.items():
        with pytest.raises(InvalidArgument, match=message):
            llama.generate(PROMPTS, drafter="kivi", **kwargs)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_copy_follows_the_store(data):
    """Commits, rollbacks and forks: what is covered is what the keys as they stand would give."""
    store, group = KVStore(num_layers=1, sequences=2, capacity=64), 8
    bits, recent = data.draw(st.sampled_from([2, 4, 8])), data.draw(st.sampled_from([0, 5]))
    for _ in range(data.draw(st.integers(1, 9))):
        sequence = data.draw(st.integers(0, store.sequences - 1))
        action = data.draw(st.sampled_from(["commit", "commit", "crop", "fork"]))
        if action == "commit":
            staged = data.draw(st.integers(1, 20))
            k = torch.randn(1, 2, staged, 4)
            store.stage(0, [sequence], k, k, 0)
            if store.length(sequence) + staged < 44:
                store.commit(sequence, range(staged))
        elif action == "crop":
            least, most = store.offset(sequence), store.length(sequence)
            store.crop(sequence, data.draw(st.integers(least, most)))
        elif len(store.levels) < 3:
            store.stack([s // 2 for s in range(2 * store.sequences)], 64)
        for level in store.levels:
            if level.k[0] is None or not data.draw(st.booleans()):
                continue
            copy = CodedCopy.of(level, CopyKind(PackedGroups(bits, group), (0,)))
            for row, length in enumerate(level.length.tolist()):
                held = copy.row(row)
                held.update(level, row, recent, 0, None, None, torch.device("cpu"))
                assert length - recent - group < held.tokens <= length or held.tokens == 0
                if not held.tokens:
                    continue
                fresh = QuantizedKV.empty(level.k[0], level.v[0], bits, group)
                zero, covered = (
                    torch.zeros_like(level.length),
                    torch.full_like(level.length, held.tokens),
                )
                quantize_kv(level.k[0], level.v[0], fresh, zero, covered, groups=99)
                ours = held.decode(0, 2, 0)
                for mine, want in zip(ours, dequantize(fresh, row, held.tokens)):
                    assert torch.equal(mine, want)


def test_more_bits_are_nearer():
    """Attention through 8 bits errs 16 times less than through 4, and those less than 2."""
    from specdec.kernels.attention.quantized_attention import quantized_attention

    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 3, 16), torch.randn(1, 2, 64, 16), torch.randn(1, 2, 64, 16)
    k[..., 3] += 20.0  # a channel of its own size: keys are scaled by channel
    length, row = torch.tensor([64], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    want, _ = dense(q, k, v, torch.ones(1, 3, 64, dtype=torch.bool), 0.25)
    errors = []
    for bits in (2, 4, 8):
        kv = QuantizedKV.empty(k, v, bits, 32)
        quantize_kv(k, v, kv, torch.zeros_like(length), length, groups=2)
        o, _ = quantized_attention(q, kv, length, row, scale=0.25)
        errors.append((o.double() - want).abs().max().item())
        assert kv.nbytes < (k.nbytes + v.nbytes) * (bits + 5) / 32 + 1
    assert errors[2] < errors[1] / 8 and errors[1] < min(0.3, errors[0] / 2)
