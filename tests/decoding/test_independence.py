"""Rows of a batch are independent draws, and none depends on its company."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

import specdec
from specdec import Engine
from specdec.sampling.noise import Noise, Stream

from helpers import models

ODDS = 1e-4  # of a false alarm, per statistical test; seeds are fixed
PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6, [1, 2, 3, 4, 6]]
DRAFTERS = {
    "none": {"drafter": "none"},
    "ngram": {"drafter": "ngram", "min_ngram": 1},
    "model": {"drafter": "model", "draft_width": 2},
    "cascade": {"drafter": "cascade"},
}


@pytest.fixture(scope="module")
def model():
    return models.build("llama")


@pytest.fixture(scope="module")
def engine(model):
    return Engine(models.disturbed(model, 0.0))


@pytest.fixture(scope="module")
def draft(model):
    return models.disturbed(model, 0.03)


def by_engine(engine, draft, prompts, **kwargs):
    if kwargs["drafter"] in ("model", "cascade"):
        kwargs["draft_model"] = draft
    return [g.token_ids for g in engine.generate(prompts, **kwargs)]


def by_adapter(model, draft, prompts, num_return_sequences=1, temperature=1.0, **kwargs):
    """The same through `model.generate`; rows come padded on the left."""
    if kwargs["drafter"] in ("model", "cascade"):
        kwargs["draft_model"] = draft
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    kwargs.pop("min_ngram", None), kwargs.pop("draft_width", None)
    out = model.generate(
        ids, attention_mask=mask, do_sample=True, top_k=0, temperature=temperature, pad_token_id=0,
        num_return_sequences=num_return_sequences, custom_generate=specdec.hf.generate, **kwargs,
    )  # fmt: skip
    return out[:, width:].tolist()


@pytest.fixture(params=["Engine", "adapter"])
def texts(request, engine, model, draft):
    """A function from prompts and keywords to the texts, one a row."""
    ways = {"Engine": (by_engine, engine), "adapter": (by_adapter, model)}
    way, subject = ways[request.param]
    return lambda prompts, **kwargs: way(subject, draft, prompts, **kwargs)


@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
@pytest.mark.parametrize("drafter", ["model", "cascade"])
def test_company_and_order_do_not_matter(texts, drafter, acceptance):
    """With fixed drafts; those that the clock decides are told apart by `coupled` alone."""
    how = {**DRAFTERS[drafter], "acceptance": acceptance, "max_new_tokens": 7, "seed": 5,
           "temperature": 1.0}  # fmt: skip
    alone = [texts([prompt], **how)[0] for prompt in PROMPTS]
    assert len(set(map(tuple, alone))) == len(PROMPTS)
    assert texts(PROMPTS, **how) == alone
    assert texts(PROMPTS[::-1], **how) == alone[::-1]
    both = texts(PROMPTS[:2], num_return_sequences=3, **how)
    assert both[0::3] == alone[:2]
    assert len(set(map(tuple, both))) == 6
    # a prompt given again is its next sample, whoever stands between
    again = texts([PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[0]], **how)
    assert [again[0], again[2], again[4]] == both[:3] and [again[1], again[3]] == both[3:5]
    assert texts(PROMPTS, **{**how, "seed": 6}) != alone


def test_coupled_text_is_one_for_all_drafters_and_both_doors(engine, model, draft):
    how = {"max_new_tokens": 8, "seed": 9, "temperature": 0.9, "num_return_sequences": 2}
    plain = by_engine(engine, draft, PROMPTS, **how, **DRAFTERS["none"])
    for options in DRAFTERS.values():
        assert by_engine(engine, draft, PROMPTS, **how, **options) == plain
    for options in (DRAFTERS["none"], DRAFTERS["model"]):
        assert by_adapter(model, draft, PROMPTS, **how, **options) == plain


def test_without_a_seed_torch_decides(texts):
    """`torch.manual_seed` repeats a call; without it the next one says something else."""
    how = {"max_new_tokens": 5, "temperature": 1.0, "drafter": "none"}
    torch.manual_seed(3)
    first, second = texts(PROMPTS, **how), texts(PROMPTS, **how)
    torch.manual_seed(3)
    assert texts(PROMPTS, **how) == first != second


def agreement(tokens):
    """How many pairs of rows hold the same token, in deviations from chance, for a uniform law."""
    rows = len(tokens)
    pairs, p = rows * (rows - 1) / 2, 1 / models.VOCAB
    equal = sum(n * (n - 1) / 2 for n in Counter(tokens).values())
    return (equal - pairs * p) / (pairs * p * (1 - p)) ** 0.5  # pairs are pairwise independent


@pytest.mark.parametrize(("seed", "acceptance"), [(None, "coupled"), (3, "rejection")])
@pytest.mark.parametrize("kind", ["unlike", "equal"])
def test_rows_agree_as_often_as_chance(texts, kind, acceptance, seed):
    """160 rows whose law is next to uniform: equal tokens in a column, and pairs of neighbours."""
    prompts = {
        "unlike": [[i % 40, (i * 7 + 3) % 40, i // 40] for i in range(80)]
        + [[1] * (1 + i) for i in range(80)],
        "equal": [[1, 2, 3]] * 160,
    }[kind]
    torch.manual_seed(1)
    found = texts(
        prompts, temperature=1e5, max_new_tokens=3, acceptance=acceptance, seed=seed,
        drafter="model",
    )  # fmt: skip
    table = np.zeros((4, 4))
    for column in zip(*found):
        assert abs(agreement(column)) < stats.norm.isf(ODDS / 2)
        for one, other in zip(column[0::2], column[1::2]):
            table[one % 4, other % 4] += 1
    assert stats.chi2_contingency(table).pvalue > ODDS


def test_a_shared_key_would_be_noticed():
    """The same figures on rows that share their noise, as they once did, are far off."""
    column = [int(Noise(3).target(4, models.VOCAB, "cpu").argmax()) for _ in range(200)]
    assert agreement(column) > 100


def test_keys_mix_all_of_seed_and_prompt():
    """One bit of the seed or one id changes about half of the key's bits."""
    base = Noise.of(12345, [5, 6, 7]).key
    others = [Noise.of(12345 ^ 1 << bit, [5, 6, 7]).key for bit in range(64)]
    others += [Noise.of(12345, ids).key for ids in ([5, 6, 8], [5, 6], [6, 5, 7], [5, 6, 7, 0])]
    changed = [(base ^ key).bit_count() for key in others]
    assert min(changed) >= 16 and max(changed) <= 48 and 28 < np.mean(changed) < 36
    assert Noise.of(12345, np.array([5, 6, 7])).key == base


def test_counters_do_not_run_over():
    noise = Noise(1)
    for call in (
        lambda: noise.counter(1 << 32),
        lambda: Noise(1, 1 << 32).counter(0),
        lambda: noise.draft(0, 1 << 30, 4, "cpu"),
        lambda: noise.tests(0).counter(1 << 30),
        lambda: noise.counter(-1),
    ):
        with pytest.raises(AssertionError, match="bits of a counter"):
            call()
    assert len({stream & 3 for stream in Stream}) == len(Stream)
