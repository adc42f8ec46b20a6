"""The contract where texts end, and under processors, criteria, seeds and streams."""

from __future__ import annotations

import pytest
import torch

from helpers import hostile
from helpers.contract import (
    ARCHITECTURES,
    DRAFTERS,
    NEW,
    PROMPTS,
    draft_for,
    engine_of,
    outcome,
    run,
)

RULES = ["coupled", "rejection"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def engine(request):
    return engine_of(request.param)


@pytest.fixture(scope="module")
def llama():
    return engine_of("llama")


@pytest.fixture(scope="module")
def draft(engine):
    return draft_for(engine)


@pytest.mark.parametrize("wrong_every", [0, 1, 2, 5])
@pytest.mark.parametrize("new", [1, 2, 3, 7, NEW])
def test_drafts_of_the_true_text(llama, wrong_every, new):
    """Always right, always wrong and in between, with drafts that go past every limit."""
    truth = [llama.generate(p, drafter="none", max_new_tokens=new) for p in PROMPTS]
    texts = [g.token_ids for g in truth]
    out = run(llama, drafter=hostile.replay(texts, wrong_every), max_new_tokens=new)
    assert outcome(out) == outcome(truth)
    if wrong_every == 0:
        assert all(g.stats.num_spec_steps == 1 for g in out)


@pytest.mark.parametrize("place", range(8))
def test_end_token_inside_an_accepted_block(llama, place):
    """Drafts run over the end; the text stops where plain decoding stops, and so does the count."""
    truth = llama.generate(PROMPTS[0], drafter="none", max_new_tokens=NEW, temperature=1.0, seed=2)
    eos = truth.token_ids[place]
    kwargs = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 2, "eos_token_id": eos}
    plain = llama.generate(PROMPTS[0], drafter="none", **kwargs)
    out = llama.generate(PROMPTS[0], drafter=hostile.replay([truth.token_ids]), **kwargs)
    assert outcome([out]) == outcome([plain])
    assert out.finish_reason == "stop" and out.token_ids[-1] == eos
    assert out.stats.num_tokens == len(out.token_ids)


@pytest.mark.parametrize("stop", ["one", "spanning", "several"])
def test_stop_strings_inside_an_accepted_block(llama, stop):
    truth = llama.generate(PROMPTS[0], drafter="none", max_new_tokens=NEW, temperature=1.0, seed=2)
    text = truth.text
    strings = {"one": text[10:12], "spanning": text[13:18], "several": ["qqq", text[9:12]]}[stop]
    kwargs = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 2, "stop": strings}
    plain = llama.generate(PROMPTS[0], drafter="none", **kwargs)
    found = strings if isinstance(strings, str) else strings[1]
    assert plain.text == text[: text.index(found)]
    stream = llama.stream(PROMPTS[0], drafter=hostile.replay([truth.token_ids]), **kwargs)
    shown = "".join(step.text for step in stream)
    assert outcome(stream.generations) == outcome([plain])
    assert shown == plain.text


class Alternating:
    """A processor with state: bans even and odd tokens in turn, and counts its calls."""

    def __init__(self):
        self.calls = 0
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        scores = scores.clone()
        scores[:, self.calls % 2 :: 2] = -torch.inf
        self.calls += 1
        return scores


FORKING = ["RandomTrees", "model", "model-tree", "cascade", "longspec", "longspec-nodes"]


@pytest.mark.parametrize("acceptance", RULES)
@pytest.mark.parametrize("drafter", FORKING)
def test_processor_with_state(llama, drafter, acceptance):
    """Each token is shaped by the state that plain decoding would have there."""
    kwargs = {"temperature": 1.0, "seed": 5, "logits_processor": [Alternating()]}
    out = run(llama, draft_for(llama), **DRAFTERS[drafter], acceptance=acceptance, **kwargs)
    for g in out:
        assert [t % 2 for t in g.token_ids] == [1, 0] * (NEW // 2)
    assert kwargs["logits_processor"][0].calls == 0  # the user's own object is left alone


def test_processor_sees_the_calls_of_plain_decoding(llama):
    """Once per token, in order, one token more each time - under the default rule."""
    own = Alternating()
    llama.generate(PROMPTS[0], drafter=hostile.Bushy, logits_processor=[own], max_new_tokens=9)
    assert own.lengths == list(range(len(PROMPTS[0]), len(PROMPTS[0]) + 9))


@pytest.mark.parametrize("drafter", ["none", "ngram", "Bushy"])
def test_stopping_criteria_are_asked_after_every_token(llama, drafter):
    truth = llama.generate(PROMPTS[0], drafter="none", max_new_tokens=NEW)

    def criterion(input_ids, scores):
        return input_ids.shape[1] >= len(PROMPTS[0]) + 5

    name = drafter if drafter != "Bushy" else hostile.Bushy
    out = llama.generate(
        PROMPTS[0], drafter=name, max_new_tokens=NEW, stopping_criteria=[criterion]
    )
    assert out.token_ids == truth.token_ids[:5] and out.finish_reason == "stop"


def test_seeded_text_depends_on_nothing_else(llama):
    """Not on the batch, the number of samples, nor on what ran before."""
    kwargs = {"temperature": 1.0, "seed": 12, "max_new_tokens": 12, "drafter": "ngram"}
    alone = llama.generate(PROMPTS[2], **kwargs).token_ids
    batch = llama.generate(PROMPTS, **kwargs)
    samples = llama.generate(PROMPTS[2], num_return_sequences=3, **kwargs)
    both = llama.generate([PROMPTS[0], PROMPTS[2]], num_return_sequences=2, **kwargs)
    assert alone == batch[2].token_ids == samples[0].token_ids == both[2].token_ids
    assert samples[1].token_ids == both[3].token_ids != alone
    assert [(g.prompt_index, g.sample_index) for g in both] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_unseeded_sampling_follows_torch(llama):
    kwargs = {"temperature": 1.0, "max_new_tokens": 6}
    torch.manual_seed(1)
    first = llama.generate(PROMPTS[0], **kwargs)
    other = llama.generate(PROMPTS[0], **kwargs)
    torch.manual_seed(1)
    assert first.token_ids == llama.generate(PROMPTS[0], **kwargs).token_ids
    assert first.seed != other.seed
    again = llama.generate(PROMPTS[0], seed=first.seed, **kwargs)
    assert again.token_ids == first.token_ids


def test_stream_gives_what_generate_gives(llama):
    kwargs = {"max_new_tokens": 15, "drafter": hostile.Bushy}
    steps = list(stream := llama.stream(PROMPTS, **kwargs))
    for i, g in enumerate(stream.generations):
        mine = [s for s in steps if s.row == i]
        assert [t for s in mine for t in s.token_ids] == g.token_ids
        assert "".join(s.text for s in mine) == g.text
        assert [s.finish_reason for s in mine] == [None] * (len(mine) - 1) + ["length"]
        assert all(len(s.sources) == len(s.token_ids) == len(s.pieces) for s in mine)
        sources = [source for s in mine for source in s.sources]
        assert sources.count("hostile") == g.stats.num_accepted_draft_tokens
    assert outcome(stream.generations) == outcome(llama.generate(PROMPTS, **kwargs))


def test_stats_add_up(llama):
    for g in run(llama, drafter=hostile.RandomTrees):
        stats = g.stats.to_dict()
        assert stats["num_tokens"] == len(g.token_ids) == NEW
        assert sum(stats["acceptance_histogram"]) == stats["num_spec_steps"]
        weighted = sum(i * n for i, n in enumerate(stats["acceptance_histogram"]))
        assert weighted == stats["num_accepted_draft_tokens"] <= stats["num_draft_tokens"]
        assert stats["mean_acceptance_length"] == NEW / stats["num_spec_steps"]
        assert stats["decode_s"] >= stats["draft_s"] + stats["verify_s"] - 1e-9
        assert all(0 <= rate <= 1 for rate in stats["acceptance_rate_per_position"])
